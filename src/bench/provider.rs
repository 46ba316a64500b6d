//! The provider's question: what a million actions cost, and whether a start is quick enough whatever the load.
//!
//! Prices and limits are those of Koller and Williams, "Will Serverless End the Dominance of Linux in the Cloud?",
//! HotOS 2017: $0.188 an hour for the machine, $0.000000417 for an action, so that 125.23 actions a second pay for the
//! machine.

use super::record::{Load, Row};

/// Actions a second that pay for the machine at the paper's prices.
pub const BREAK_EVEN: f64 = 125.23;
/// A start should take less, whatever the load: milliseconds.
pub const MOST_MILLISECONDS: f64 = 100.0;

/// What is paid and charged, in dollars.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    /// For the machine, an hour.
    pub hour: f64,
    /// For an action.
    pub action: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Self { hour: 0.188, action: 0.000_000_417 }
    }
}

impl Prices {
    /// Actions a second that pay for the machine.
    pub fn break_even(self) -> f64 {
        self.hour / 3600.0 / self.action
    }

    /// What a machine that makes `rate` actions a second costs for a million of them.
    pub fn million(self, rate: f64) -> f64 {
        self.hour / 3600.0 / rate * 1e6
    }
}

/// The answer for one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// The highest rate that was kept up, in starts a second.
    pub rate: f64,
    /// The slowest in a hundred at any rate that was kept up, in milliseconds.
    pub worst_p99: f64,
    /// Whether the rate pays for the machine.
    pub pays: bool,
    /// Whether 99 in 100 starts took less than 100 ms at every rate that was kept up.
    pub quick: bool,
    /// What a million actions cost at that rate.
    pub million: f64,
}

/// The answer for what `load` found; none if nothing was kept up.
pub fn answer(load: &Load, prices: Prices) -> Option<Answer> {
    let rate = load.knee?;
    let kept_up = load.open.iter().filter(|trial| trial.kept_up);
    let worst_p99 = kept_up.map(|trial| trial.p99_us / 1e3).fold(0.0, f64::max);
    Some(Answer {
        rate,
        worst_p99,
        pays: rate > prices.break_even(),
        quick: worst_p99 < MOST_MILLISECONDS,
        million: prices.million(rate),
    })
}

/// The answer for a row, if it was asked for.
pub fn answer_for(row: &Row, prices: Prices) -> Option<Answer> {
    answer(row.load.as_ref()?, prices)
}

#[cfg(test)]
mod tests {
    use super::super::record::Trial;
    use super::*;

    #[test]
    fn the_papers_prices_give_the_papers_rate() {
        let prices = Prices::default();
        assert!((prices.break_even() - BREAK_EVEN).abs() < 0.01, "{}", prices.break_even());
        assert!((prices.million(BREAK_EVEN) - 0.417).abs() < 0.001);
    }

    #[test]
    fn the_slowest_rate_that_was_kept_up_decides() {
        let trial =
            |offered, p99_ms: f64, kept_up| Trial { offered, p99_us: p99_ms * 1e3, kept_up, ..Trial::default() };
        let open = vec![trial(100.0, 20.0, true), trial(200.0, 120.0, true), trial(300.0, 900.0, false)];
        let load = Load { open, knee: Some(200.0), ..Load::default() };
        let answer = answer(&load, Prices::default()).unwrap();
        assert_eq!((answer.worst_p99, answer.quick, answer.pays), (120.0, false, true));
        assert_eq!(super::answer(&Load::default(), Prices::default()), None);
    }
}
