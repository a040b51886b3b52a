//! Numbers as decimal text: printed as JavaScript prints them, read as it reads them.

/// The text of `value`, as by JavaScript's `String(value)`.
pub(super) fn print(value: f64, buffer: &mut ryu_js::Buffer) -> &str {
    buffer.format(value)
}

/// The number in `text`, as by JavaScript's `Number(text)`: zero if it is blank, NaN if it is no
/// number. Hexadecimal, octal and binary digits are not numbers here.
pub(super) fn parse(text: &str) -> f64 {
    let text = trim(text);
    match text {
        "" => return 0.0,
        "Infinity" | "+Infinity" => return f64::INFINITY,
        "-Infinity" => return f64::NEG_INFINITY,
        _ => {}
    }
    // Rust takes words such as "inf" too.
    if !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
        return f64::NAN;
    }
    text.parse().unwrap_or(f64::NAN)
}

/// The number in `text`, exactly, if it is an integer: also with a point and nothing but zeros
/// behind it, as Go writes them. One that is written with an exponent counts only up to 2^53,
/// where a double has every integer.
pub(super) fn parse_integer(text: &str) -> Option<i128> {
    let text = trim(text);
    let digits = match text.split_once('.') {
        Some((digits, zeros)) if zeros.bytes().all(|byte| byte == b'0') => digits,
        Some(_) => "",
        None => text,
    };
    if let Ok(integer) = digits.parse() {
        return Some(integer);
    }
    const EXACT: f64 = (1u64 << 53) as f64;
    let float = parse(text);
    (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i128)
}

/// Without the characters around it that JavaScript takes for white space.
fn trim(text: &str) -> &str {
    text.trim_matches(|char: char| char == '\u{feff}' || (char.is_whitespace() && char != '\u{85}'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_like_javascript() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (1.5, "1.5"),
            (100.0, "100"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (-1.5e300, "-1.5e+300"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(print(value, &mut ryu_js::Buffer::new()), text);
        }
    }

    #[test]
    fn reads_like_javascript() {
        for (text, value) in [
            ("", 0.0),
            (" \t\n\u{feff}\u{a0}", 0.0),
            ("0", 0.0),
            ("5.", 5.0),
            (".5", 0.5),
            ("-.5", -0.5),
            ("+5", 5.0),
            (" 5 ", 5.0),
            ("007", 7.0),
            ("0.1", 0.1),
            ("1e+21", 1e21),
            ("1E-7", 1e-7),
            ("5.e3", 5000.0),
            ("1e400", f64::INFINITY),
            ("1e-400", 0.0),
            ("1000000000000000000000.", 1e21),
            ("Infinity", f64::INFINITY),
            ("+Infinity", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
        ] {
            assert_eq!(parse(text), value, "{text:?}");
        }
        assert!(parse("-0").is_sign_negative());
        for text in [
            "NaN", "+Inf", "-Inf", "inf", "nan", "infinity", "INFINITY", ".", "-", "+", "e5", "1e",
            "1e+", "--1", "+-1", "1 2", "1_000", "1,5", "0x10", "0b1", "5n", "abc", "\u{85}5", "٣",
            "1..2", "1.2.3",
        ] {
            assert!(parse(text).is_nan(), "{text:?}");
        }
    }

    #[test]
    fn integers_are_exact() {
        for (text, value) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("", Some(0)),
            ("5.", Some(5)),
            ("0.", Some(0)),
            ("5.00", Some(5)),
            ("-7", Some(-7)),
            ("+7", Some(7)),
            (" 7 ", Some(7)),
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("18446744073709551615", Some(u64::MAX.into())),
            ("-9223372036854775808", Some(i64::MIN.into())),
            ("1000000000000000000000.", Some(10i128.pow(21))),
            ("1e3", Some(1000)),
            ("1.5e1", Some(15)),
            ("1e+21", None),
            ("5.5", None),
            ("0.1", None),
            ("1e-7", None),
            ("NaN", None),
            ("Infinity", None),
            ("+Inf", None),
            ("abc", None),
            ("--5", None),
            (".", None),
            ("-.", None),
            (".0", Some(0)),
            ("99999999999999999999999999999999999999999", None),
        ] {
            assert_eq!(parse_integer(text), value, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_the_same(value: f64) {
            let mut buffer = ryu_js::Buffer::new();
            let text = print(value, &mut buffer);
            prop_assert_eq!(parse(text), value);
        }

        #[test]
        fn any_text_reads_as_something(text in "[-+.eE0-9 ]{0,12}|.{0,12}") {
            let float = parse(&text);
            if let Some(integer) = parse_integer(&text) {
                prop_assert_eq!(integer as f64, float);
            }
        }
    }
}
