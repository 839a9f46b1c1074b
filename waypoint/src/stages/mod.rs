//! What becomes of a request, one file a stage. Each is a pure decision; `exchange` carries them out in this order:
//!
//! `fault`, `cors`, then by the action of the route `redirect`, `respond`, or `split`, `transform`, `mirror`, `timeout`
//! and `retry`. A request that no rule takes goes straight to its service, under `timeout` and `retry` alone.

use http::HeaderValue;

pub mod cors;
mod draw;
pub mod fault;
pub mod limit;
pub mod mirror;
pub mod redirect;
pub mod respond;
pub mod retry;
pub mod split;
pub mod timeout;
pub mod transform;

/// A number as the value of a header. One of a single digit, as most are, takes no memory.
pub(crate) fn numeral(number: u64) -> HeaderValue {
    const DIGITS: &str = "0123456789";
    match usize::try_from(number) {
        Ok(at) if at < DIGITS.len() => HeaderValue::from_static(&DIGITS[at..=at]),
        _ => HeaderValue::from(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_in_digits_whatever_its_length() {
        for number in [0, 1, 9, 10, 4096, u64::MAX] {
            assert_eq!(numeral(number), number.to_string());
        }
    }
}
