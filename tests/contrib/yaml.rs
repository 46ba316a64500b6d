//! As much of YAML as manifests use: mappings and lists in block style, plain and quoted scalars, several documents.

use serde_json::{Map, Value, json};

/// The documents of a text.
pub fn documents(text: &str) -> Vec<Value> {
    text.split("\n---\n").map(document).collect()
}

fn document(text: &str) -> Value {
    let lines: Vec<(usize, &str)> = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .map(|line| (line.len() - line.trim_start().len(), line.trim()))
        .collect();
    let mut reader = Reader { lines, next: 0 };
    let value = reader.block(0);
    assert_eq!(reader.next, reader.lines.len(), "not understood: {:?}", reader.lines.get(reader.next));
    value
}

struct Reader<'a> {
    /// Indentation and text.
    lines: Vec<(usize, &'a str)>,
    next: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<(usize, &'a str)> {
        self.lines.get(self.next).copied()
    }

    /// The mapping or list whose lines begin at `indent`.
    fn block(&mut self, indent: usize) -> Value {
        match self.peek() {
            Some((_, text)) if text.starts_with("- ") => self.list(indent),
            _ => self.mapping(indent),
        }
    }

    fn list(&mut self, indent: usize) -> Value {
        let mut items = Vec::new();
        while let Some((_, text)) = self.peek().filter(|(at, text)| *at == indent && text.starts_with("- ")) {
            let item = text[2..].trim_start();
            if item.split_once(':').is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with(' ')) {
                // A mapping that begins behind the hyphen, and goes on as far inside.
                self.lines[self.next] = (indent + 2, item);
                items.push(self.mapping(indent + 2));
            } else {
                self.next += 1;
                items.push(scalar(item));
            }
        }
        Value::Array(items)
    }

    fn mapping(&mut self, indent: usize) -> Value {
        let mut map = Map::new();
        while let Some((_, text)) = self.peek().filter(|(at, text)| *at == indent && !text.starts_with("- ")) {
            let (key, rest) = text.split_once(':').unwrap_or_else(|| panic!("no key: {text:?}"));
            self.next += 1;
            let value = if !rest.is_empty() {
                scalar(rest.strip_prefix(' ').unwrap_or_else(|| panic!("no space after the key: {text:?}")))
            } else {
                match self.peek() {
                    // A list may stand below its key without being indented.
                    Some((inner, next)) if inner > indent || (inner == indent && next.starts_with("- ")) => {
                        self.block(inner)
                    }
                    _ => Value::Null,
                }
            };
            assert!(map.insert(key.to_owned(), value).is_none(), "{key} is there twice");
        }
        Value::Object(map)
    }
}

fn scalar(text: &str) -> Value {
    assert!(!text.starts_with(['[', '{', '|', '>', '&', '*', '!']), "not read here: {text:?}");
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)) {
            return json!(inner);
        }
    }
    match text {
        "true" => json!(true),
        "false" => json!(false),
        _ => text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number)),
    }
}
