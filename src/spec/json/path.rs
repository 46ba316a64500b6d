//! From a place in a text to the path of the value there.

/// What is at a place in a JSON text, by path ("linux.namespaces[2].type"; "" is the whole).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The value that begins there, or was the last to begin before.
    pub value: String,
    /// The innermost object or array around the place.
    pub container: String,
}

/// An object or array that has not ended.
enum Open {
    /// The member that is being read.
    Object(String),
    /// The index of the item that is being read.
    Array(usize),
}

/// What is at byte `at` of `text`, which is valid JSON without white space between its parts. serde_json's errors say how
/// many bytes were consumed: up to the end of a number, a string or an object, but not the byte that begins something
/// unexpected.
pub(super) fn at(text: &str, at: usize) -> Place {
    let bytes = text.as_bytes();
    let mut open: Vec<Open> = Vec::new();
    let mut value = String::new();
    let mut position = 0;
    while position <= at && position < bytes.len() {
        let byte = bytes.get(position).copied().unwrap_or_default();
        match byte {
            b'{' | b'[' => {
                value = path(&open);
                open.push(if byte == b'{' { Open::Object(String::new()) } else { Open::Array(0) });
                position += 1;
            }
            b'}' | b']' => {
                // The end itself still belongs to what it ends.
                if position + 1 >= at {
                    break;
                }
                open.pop();
                position += 1;
            }
            b',' => {
                if let Some(Open::Array(index)) = open.last_mut() {
                    *index += 1;
                }
                position += 1;
            }
            b':' => position += 1,
            b'"' => {
                let end = string_end(bytes, position);
                match open.last_mut() {
                    Some(Open::Object(name)) if bytes.get(end) == Some(&b':') => {
                        *name = serde_json::from_str(text.get(position..end).unwrap_or_default()).unwrap_or_default();
                    }
                    _ => value = path(&open),
                }
                position = end;
            }
            _ => {
                value = path(&open);
                let rest = bytes.get(position..).unwrap_or_default();
                position += rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']')).unwrap_or(rest.len());
            }
        }
    }
    open.pop();
    Place { value, container: path(&open) }
}

/// Where the string that begins at `start` is over.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut position = start + 1;
    while let Some(byte) = bytes.get(position) {
        match byte {
            b'"' => return position + 1,
            b'\\' => position += 2,
            _ => position += 1,
        }
    }
    position
}

fn path(open: &[Open]) -> String {
    let mut path = String::new();
    for step in open {
        match step {
            Open::Object(name) => {
                let dot = if path.is_empty() { "" } else { "." };
                path += dot;
                path += name;
            }
            Open::Array(index) => path += &format!("[{index}]"),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_text_has_its_path() {
        let text = r#"{"a":{"b\"":[1,{"c":"x,y"}],"d":-5},"e":true}"#;
        for (found, value, container) in [
            ("{\"a", "", ""),
            ("{\"b", "a", "a"),
            ("[1", "a.b\"", "a.b\""),
            ("1,", "a.b\"[0]", "a.b\""),
            ("{\"c", "a.b\"[1]", "a.b\"[1]"),
            ("x,y", "a.b\"[1].c", "a.b\"[1]"),
            ("}]", "a.b\"[1].c", "a.b\"[1]"),
            ("],", "a.b\"[1].c", "a.b\"[1]"),
            ("-5", "a.d", "a"),
            ("},\"e", "a.d", "a"),
            ("true", "e", ""),
        ] {
            let place = at(text, text.find(found).unwrap());
            assert_eq!(place, Place { value: value.into(), container: container.into() }, "{found}");
        }
        for position in 0..text.len() + 3 {
            at(text, position);
            at(&text[..position.min(text.len())], position);
        }
    }
}
