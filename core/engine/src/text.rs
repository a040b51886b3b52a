//! Texts from strangers.

/// The longest text that is shown in full, in characters.
const LONGEST: usize = 256;

/// Makes a text that may come from a stranger (a name, an id, a role, a reason) fit for logs and terminals: cuts it to
/// 256 characters, with `…` behind, and escapes invisible characters: control characters (so escape sequences, too),
/// marks that change the direction of the text, and characters of no width.
///
/// ```
/// # use roletalk_engine::printable;
/// assert_eq!(printable("the role \"log\""), "the role \"log\"");
/// assert_eq!(printable("\x1b[2J\u{202e}"), "\\u{1b}[2J\\u{202e}");
/// ```
pub fn printable(text: &str) -> String {
    printable_up_to(text, LONGEST)
}

/// As [`printable`], with at most `longest` characters.
pub(crate) fn printable_up_to(text: &str, longest: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(longest));
    let mut characters = text.chars();
    for character in characters.by_ref().take(longest) {
        match character {
            // Harmless, and part of most texts.
            '"' | '\'' | '\\' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_escaped() {
        let hidden = [
            '\0',
            '\x07',
            '\x1b',
            '\x7f',
            '\u{85}',
            '\u{9b}',
            '\u{61c}',
            '\u{200b}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{e0041}',
            '\n',
            '\r',
            '\t',
        ];
        for character in hidden {
            let shown = printable(&character.to_string());
            assert!(shown.starts_with('\\') && shown.is_ascii(), "{character:?}: {shown}");
        }
        for plain in ["größe", "日本", "it's \"so\"", r"C:\temp", "😀", ""] {
            assert_eq!(printable(plain), plain);
        }
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(printable(&"é".repeat(257)), "é".repeat(256) + "…");
        assert_eq!(printable(&"é".repeat(256)), "é".repeat(256));
    }
}
