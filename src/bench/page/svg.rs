//! Charts as SVG. Colours are classes and CSS variables, so that one drawing serves light and dark; that is what no
//! plotting crate writes.

use std::fmt::Write;

/// A chart's width in its own units: a phone shows about as many pixels.
const WIDTH: f64 = 400.0;

/// `text` as it may stand in HTML and SVG.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A bar: whose, how long, what is said at its end, and its colour variable.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Whose.
    pub label: String,
    /// How long.
    pub value: f64,
    /// Up to where a thin line goes on.
    pub up_to: Option<f64>,
    /// What is said of it.
    pub note: String,
    /// The name of a colour.
    pub colour: &'static str,
}

/// Bars from left to right, the label above each. Returns the elements and their height.
pub fn bars(title: &str, bars: &[Bar]) -> (String, f64) {
    const ROW: f64 = 32.0;
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let scale = |value: f64| value.min(most * 1.04) / most * (WIDTH - 20.0);
    // Writing to a String cannot fail, here and below.
    let mut svg = format!("<text y='14' font-size='13' font-weight='600'>{}</text>", escaped(title));
    for (index, bar) in bars.iter().enumerate() {
        let y = 36.0 + index as f64 * ROW;
        let _ = write!(
            svg,
            "<text y='{y}' font-size='11.5'>{}<tspan class='soft' dx='6'>{}</tspan></text>\
             <rect y='{:.1}' width='{:.1}' height='9' rx='1' fill='var(--{})'/>",
            escaped(&bar.label),
            escaped(&bar.note),
            y + 5.0,
            scale(bar.value).max(1.0),
            bar.colour
        );
        if let Some(up_to) = bar.up_to.filter(|up_to| *up_to > bar.value) {
            let (from, to, y) = (scale(bar.value), scale(up_to), y + 9.5);
            let _ = write!(svg, "<path d='M{from:.1} {y:.1}H{to:.1}' stroke='var(--soft)' stroke-width='1'/>");
        }
    }
    (svg, 36.0 + bars.len() as f64 * ROW)
}

/// Elements as an image of their own within a page.
pub fn image(elements: &str, height: f64, label: &str) -> String {
    format!(
        "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{}' xmlns='http://www.w3.org/2000/svg'>{elements}</svg>",
        escaped(label).replace('\'', "&#39;")
    )
}

/// Two drawings beside each other, as a file for itself.
pub fn file(left: &str, right: &str, height: f64, style: &str, footer: &str) -> String {
    let (wide, high) = (2.0 * WIDTH + 60.0, height + 46.0);
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {wide} {high}' width='{wide}' height='{high}'><style>{style}\
         svg {{ background: var(--back) }}</style><g transform='translate(10 8)'>{left}</g>\
         <g transform='translate({} 8)'>{right}</g><text class='soft' x='10' y='{}' font-size='10.5'>{}</text></svg>",
        WIDTH + 50.0,
        high - 10.0,
        escaped(footer)
    )
}

/// Every sample as a stroke on a logarithmic axis, a row for each list, the median marked.
pub fn strips(rows: &[(String, Vec<f64>, f64, &'static str)], unit: &str) -> String {
    const ROW: f64 = 30.0;
    let all = || rows.iter().flat_map(|(_, samples, _, _)| samples.iter().copied());
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN_POSITIVE, f64::max));
    let (low, high) = (least.max(1e-3).log10().floor(), most.max(1e-2).log10().ceil());
    let x = |value: f64| (value.max(1e-3).log10() - low) / (high - low).max(1.0) * (WIDTH - 12.0) + 6.0;
    let bottom = 14.0 + rows.len() as f64 * ROW;
    let mut svg = String::new();
    let mut decade = low;
    while decade <= high {
        let value = 10f64.powf(decade);
        let at = x(value);
        let _ = write!(
            svg,
            "<path d='M{at:.1} 4V{bottom}' stroke='var(--line)'/><text class='soft' x='{at:.1}' y='{}' font-size='10' \
             text-anchor='{}'>{}</text>",
            bottom + 12.0,
            if decade == low {
                "start"
            } else if decade == high {
                "end"
            } else {
                "middle"
            },
            escaped(&format!("{} {unit}", plain(value)))
        );
        decade += 1.0;
    }
    for (index, (name, samples, median, colour)) in rows.iter().enumerate() {
        let y = 14.0 + index as f64 * ROW;
        let _ = write!(svg, "<text y='{y}' x='6' font-size='11'>{}</text><path d='", escaped(name));
        for sample in samples {
            let _ = write!(svg, "M{:.1} {:.0}v8", x(*sample), y + 4.0);
        }
        let at = x(*median);
        let _ = write!(
            svg,
            "' stroke='var(--{colour})' stroke-opacity='.45' fill='none'/>\
             <path d='M{at:.1} {:.0}v12' stroke='var(--text)' stroke-width='2'/>",
            y + 2.0
        );
    }
    image(&svg, bottom + 18.0, "every sample, on a logarithmic axis")
}

/// A line through points; those that are hollow did not keep up.
#[derive(Debug, Clone)]
pub struct Line {
    /// Whose.
    pub name: String,
    /// x, y, whether it is filled, and what is said of it.
    pub points: Vec<(f64, f64, bool, String)>,
    /// The name of a colour.
    pub colour: &'static str,
}

/// Lines over a common plane from 0. With `labels`, the x values are positions of these labels; with `diagonal`, the line
/// y = x is drawn.
pub fn lines(lines: &[Line], labels: &[String], diagonal: bool, unit: &str) -> String {
    const HEIGHT: f64 = 210.0;
    let legend = if lines.len() > 1 { 16.0 * lines.len() as f64 } else { 0.0 };
    let (left, bottom) = (46.0, 12.0 + legend + HEIGHT);
    let points = || lines.iter().flat_map(|line| &line.points);
    let most_y = points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max) * 1.08;
    let most_x = points().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max);
    let margin = if labels.is_empty() { 0.0 } else { 14.0 };
    let x = |value: f64| left + margin + value / most_x * (WIDTH - left - 12.0 - 2.0 * margin);
    let y = |value: f64| bottom - value / most_y * HEIGHT;
    let mut svg = String::new();
    for value in round_ticks(most_y) {
        let _ = write!(
            svg,
            "<path d='M{left} {0:.1}H{1}' stroke='var(--line)'/><text class='soft' x='{2}' y='{3:.1}' font-size='10' \
             text-anchor='end'>{4}</text>",
            y(value),
            WIDTH - 6.0,
            left - 5.0,
            y(value) + 3.5,
            plain(value)
        );
    }
    let ticks: Vec<(f64, String)> = if labels.is_empty() {
        round_ticks(most_x).into_iter().map(|value| (value, plain(value))).collect()
    } else {
        labels.iter().enumerate().map(|(at, label)| (at as f64, label.clone())).collect()
    };
    for (value, label) in ticks {
        let _ = write!(
            svg,
            "<text class='soft' x='{:.1}' y='{}' font-size='10' text-anchor='middle'>{}</text>",
            x(value),
            bottom + 14.0,
            escaped(&label)
        );
    }
    let _ = write!(svg, "<text class='soft' x='2' y='{}' font-size='10'>{}</text>", bottom + 28.0, escaped(unit));
    if diagonal {
        let end = most_x.min(most_y);
        let (x0, y0, x1, y1) = (x(0.0), y(0.0), x(end), y(end));
        let _ = write!(svg, "<path d='M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}' stroke='var(--soft)' stroke-dasharray='3 3'/>");
    }
    for (index, line) in lines.iter().enumerate() {
        let path: Vec<String> =
            line.points.iter().map(|point| format!("{:.1} {:.1}", x(point.0), y(point.1))).collect();
        let colour = line.colour;
        let dash = ["", "6 3", "2 3", "8 3 2 3"].get(index % 4).copied().unwrap_or_default();
        let _ = write!(
            svg,
            "<path d='M{}' fill='none' stroke='var(--{colour})' stroke-width='1.6' stroke-dasharray='{dash}'/>",
            path.join("L")
        );
        for (at_x, at_y, filled, note) in &line.points {
            let fill = if *filled { format!("var(--{colour})") } else { "var(--card)".to_owned() };
            let _ = write!(
                svg,
                "<circle cx='{:.1}' cy='{:.1}' r='3' fill='{fill}' stroke='var(--{colour})'><title>{}</title></circle>",
                x(*at_x),
                y(*at_y),
                escaped(note)
            );
        }
        if lines.len() > 1 {
            let at = 12.0 + 16.0 * index as f64;
            let _ = write!(
                svg,
                "<path d='M2 {0}h22' stroke='var(--{colour})' stroke-width='2' stroke-dasharray='{dash}'/>\
                 <text x='30' y='{1}' font-size='11'>{2}</text>",
                at - 4.0,
                at,
                escaped(&line.name)
            );
        }
    }
    image(&svg, bottom + 32.0, unit)
}

/// Three to six round numbers from 0 to `most`.
fn round_ticks(most: f64) -> Vec<f64> {
    let decade = 10f64.powf((most / 3.0).log10().floor());
    let step = [5.0, 2.0, 1.0].into_iter().map(|factor| factor * decade).find(|step| most / step >= 3.0);
    let step = step.unwrap_or(most);
    (0..=(most / step) as usize).map(|tick| tick as f64 * step).collect()
}

/// A number with as many digits as one reads.
pub fn plain(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_one_reads_them() {
        let shown = [0.0, 0.0123, 0.5, 3.25, 12.0, 12.34, 1234.5].map(plain);
        assert_eq!(shown, ["0", "0.012", "0.5", "3.25", "12", "12.3", "1234"]);
    }

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(round_ticks(100.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(round_ticks(1774.0), [0.0, 500.0, 1000.0, 1500.0]);
        for most in [1e-300, 0.003, 0.9, 7.0, 31.0, 12345.0] {
            assert!((3..=8).contains(&round_ticks(most).len()), "{most}: {:?}", round_ticks(most));
        }
    }

    #[test]
    fn nothing_measured_is_drawn_without_nan() {
        let empty = [bars("x", &[]).0, strips(&[], "ms"), lines(&[], &[], true, "s")];
        assert!(empty.iter().all(|svg| !svg.contains("NaN") && !svg.contains("inf")), "{empty:?}");
    }

    #[test]
    fn names_are_escaped() {
        let bar = Bar { label: "<b>&".into(), value: 1.0, up_to: None, note: "\"".into(), colour: "ours" };
        assert!(bars("t", &[bar]).0.contains("&lt;b&gt;&amp;"));
    }
}
