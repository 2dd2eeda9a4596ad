//! Durations as PostgreSQL's settings write them: `500ms`, `30s`, `1.5 min`, `2h`, and a bare `0`.
//!
//! It does not know what a duration of zero means to a setting; the setting that asks for one decides.

use std::time::Duration;

/// Reads a duration: a decimal number, optional whitespace, and one of PostgreSQL's units.
///
/// As in PostgreSQL, units are case-sensitive, fractions and exponents are allowed, and 2147483647 ms (24.8 days) is
/// the most. Other than in PostgreSQL, a unit may be left out only after 0, because a bare `30` is 30 ms for one of
/// its settings and 30 s for the next; and a fraction is kept to the microsecond (`0.1d` is 2 h 24 min, not 2 h).
///
/// # Errors
/// Says what is wrong with the text and what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let trimmed = text.trim_matches(is_space);
    let (number, unit) = split_number(trimmed);
    let fail = |problem| DurationError {
        text: text.to_owned(),
        problem,
    };
    if trimmed.starts_with('-') {
        return Err(fail(Problem::Negative));
    }
    let value: f64 = number.parse().map_err(|_| fail(Problem::NotANumber))?;
    let unit = unit.trim_start_matches(is_space);
    if unit.is_empty() {
        return if value == 0.0 {
            Ok(Duration::ZERO)
        } else {
            Err(fail(Problem::NoUnit))
        };
    }
    let Some(&(_, micros)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(fail(match sum(trimmed) {
            Some(sum) => Problem::Several(format_duration(sum)),
            None => Problem::UnknownUnit(unit.to_owned(), hint(unit)),
        }));
    };
    let seconds = value * Duration::from_micros(micros).as_secs_f64();
    if !(0.0..=MAX.as_secs_f64()).contains(&seconds) {
        return Err(fail(Problem::TooLong));
    }
    let duration = round_to_micros(Duration::from_secs_f64(seconds));
    if duration.is_zero() && value != 0.0 {
        return Err(fail(Problem::TooShort));
    }
    Ok(duration)
}

/// What a text such as `1min 30s` comes to, which PostgreSQL does not read either.
fn sum(text: &str) -> Option<Duration> {
    let (mut rest, mut sum, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let (number, unit) = split_number(rest);
        let unit = unit.trim_start_matches(is_space);
        let end = unit.find(|c: char| !c.is_alphabetic());
        let (unit, next) = unit.split_at(end.unwrap_or(unit.len()));
        let &(_, micros) = UNITS
            .iter()
            .find(|(name, _)| *name == unit || Some(*name) == alias(unit))?;
        let seconds = number.parse::<f64>().ok()? * Duration::from_micros(micros).as_secs_f64();
        sum = sum.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = next.trim_start_matches(is_space);
        parts += 1;
    }
    (parts > 1 && sum <= MAX).then_some(sum)
}

/// The unit that others write in another way.
fn alias(unit: &str) -> Option<&'static str> {
    match unit.to_lowercase().as_str() {
        "us" | "µs" | "usec" | "usecs" | "microsecond" | "microseconds" => Some("us"),
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => Some("ms"),
        "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
        "m" | "min" | "mins" | "minute" | "minutes" => Some("min"),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some("h"),
        "d" | "day" | "days" => Some("d"),
        _ => None,
    }
}

fn hint(unit: &str) -> String {
    match alias(unit) {
        Some(known) => format!("did you mean `{known}`?"),
        None => "expected one of us, ms, s, min, h, d".to_owned(),
    }
}

/// Writes a duration in the largest unit that divides it, as PostgreSQL's SHOW does; to the microsecond.
pub fn format_duration(duration: Duration) -> String {
    let micros = round_to_micros(duration).as_micros();
    let fitting = UNITS
        .iter()
        .find(|&&(_, unit)| micros > 0 && micros.is_multiple_of(u128::from(unit)));
    match fitting {
        Some(&(name, unit)) => format!("{}{name}", micros / u128::from(unit)),
        None => "0".to_owned(),
    }
}

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a duration: {problem}")]
pub struct DurationError {
    /// The text as it was given.
    text: String,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("expected a number and a unit, such as `500ms`, `30s`, `5min`, `2h`, `1d`, or 0")]
    NotANumber,
    #[error("the unit is missing; expected one of us, ms, s, min, h, d")]
    NoUnit,
    #[error("unknown unit `{0}`; {1}")]
    UnknownUnit(String, String),
    #[error("expected one number and one unit; write `{0}`")]
    Several(String),
    #[error("it is negative; expected 0 or more")]
    Negative,
    #[error("it is longer than PostgreSQL allows; expected at most 2147483647ms (24.8 days)")]
    TooLong,
    #[error("it is shorter than a microsecond; expected at least 1us, or 0")]
    TooShort,
}

/// The number that a text begins with (digits, a point, an exponent) and what follows it.
fn split_number(text: &str) -> (&str, &str) {
    let bytes = text.as_bytes();
    let digits_from = |from: usize| {
        from + bytes[from..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count()
    };
    let mut end = digits_from(0);
    if bytes.get(end) == Some(&b'.') {
        end = digits_from(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = end + 1 + sign;
        if bytes.get(exponent).is_some_and(u8::is_ascii_digit) {
            end = digits_from(exponent);
        }
    }
    text.split_at(end)
}

fn round_to_micros(duration: Duration) -> Duration {
    let half = Duration::from_nanos(500);
    let rounded = duration.saturating_add(half);
    rounded - Duration::from_nanos(u64::from(rounded.subsec_nanos() % 1000))
}

/// Whitespace as C's `isspace` has it.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// PostgreSQL's units of time and their length in microseconds, longest first.
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// The most that PostgreSQL's own timeouts take.
const MAX: Duration = Duration::from_millis(2_147_483_647);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_postgresql_reads() {
        for (text, micros) in [
            ("0", 0),
            ("0.0", 0),
            ("0s", 0),
            ("1us", 1),
            ("500ms", 500_000),
            (" 30 s ", 30_000_000),
            ("\t5\nmin", 300_000_000),
            ("2h", 7_200_000_000),
            ("1d", 86_400_000_000),
            ("1.5s", 1_500_000),
            (".5min", 30_000_000),
            ("1.min", 60_000_000),
            ("1e3ms", 1_000_000),
            ("2E-1s", 200_000),
            ("0.1d", 8_640_000_000),
            ("2147483647ms", 2_147_483_647_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_micros(micros)),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_with_what_was_expected() {
        for (text, expected) in [
            ("", "expected a number and a unit"),
            ("s", "expected a number and a unit"),
            (".s", "expected a number and a unit"),
            ("soon", "expected a number and a unit"),
            ("inf", "expected a number and a unit"),
            ("30", "the unit is missing"),
            ("1.5", "the unit is missing"),
            ("-1s", "it is negative"),
            ("30sec", "unknown unit `sec`"),
            ("5m", "unknown unit `m`; did you mean `min`?"),
            ("5MIN", "unknown unit `MIN`; did you mean `min`?"),
            ("5 fortnights", "expected one of us, ms"),
            ("1min 30s", "one number and one unit; write `90s`"),
            ("1h30m", "one number and one unit; write `90min`"),
            ("1min 5 fortnights", "unknown unit `min 5 fortnights`"),
            ("1es", "unknown unit `es`"),
            ("2147483648ms", "at most 2147483647ms"),
            ("25d", "at most 2147483647ms"),
            ("1e999d", "at most 2147483647ms"),
            ("0.1us", "at least 1us"),
        ] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.starts_with(&format!("`{text}` ")), "{error}");
        }
    }

    #[test]
    fn writes_the_largest_unit_that_divides() {
        for text in [
            "0", "1us", "1500us", "90s", "61s", "1min", "36h", "2d", "250ms",
        ] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(format_duration(Duration::from_secs(120)), "2min");
        assert_eq!(format_duration(Duration::from_nanos(999_999_600)), "1s");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(micros in 0u64..=2_147_483_647_000) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            drop(parse_duration(&text));
        }
    }
}
