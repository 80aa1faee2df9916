//! The bearer token of a request.

use std::hint::black_box;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use super::error::ApiError;

/// The token that every call must present. Never printed.
#[derive(Clone)]
pub struct Token(Box<str>);

impl Token {
    /// Characters of the shortest token that is accepted: 128 bits in base64.
    pub const CHARS_MIN: usize = 22;

    /// Takes a token; `None` if it is shorter than [`Token::CHARS_MIN`] or has characters that no header carries.
    #[must_use]
    pub fn new(text: &str) -> Option<Token> {
        let legal = text.len() >= Self::CHARS_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
        legal.then(|| Token(text.into()))
    }

    /// Compares in a time that depends on nothing but the lengths.
    #[must_use]
    pub fn equals(&self, presented: &[u8]) -> bool {
        let secret = self.0.as_bytes();
        if secret.len() != presented.len() {
            return false;
        }
        let difference = secret.iter().zip(presented).fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
        black_box(difference) == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(secret)")
    }
}

/// Checks that a request presents the token.
///
/// # Errors
/// 401 `unauthorized`.
pub(crate) fn check(headers: &HeaderMap, token: &Token) -> Result<(), ApiError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value,
        (None, _) => {
            return Err(ApiError::unauthorized("send 'Authorization: Bearer TOKEN'; the token is in DATA/root-token"));
        }
        (Some(_), Some(_)) => return Err(ApiError::unauthorized("send one Authorization header")),
    };
    let presented = value.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    match presented {
        Some((_, presented)) if token.equals(presented.trim_ascii()) => Ok(()),
        Some(_) => Err(ApiError::unauthorized("the token is not the one in DATA/root-token")),
        None => Err(ApiError::unauthorized("only 'Authorization: Bearer TOKEN' is understood")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn only_the_very_token_is_accepted() {
        let token = Token::new(SECRET).unwrap();
        assert!(token.equals(SECRET.as_bytes()));
        for at in 0..SECRET.len() {
            let mut wrong = SECRET.as_bytes().to_vec();
            wrong[at] ^= 1;
            assert!(!token.equals(&wrong), "difference at {at}");
            assert!(!token.equals(&SECRET.as_bytes()[..at]));
        }
        assert!(!token.equals(format!("{SECRET}0").as_bytes()) && !token.equals(b""));
    }

    #[test]
    fn weak_tokens_are_refused_and_none_is_printed() {
        assert!(Token::new("short").is_none() && Token::new(&"ü".repeat(20)).is_none());
        assert!(Token::new(&format!("{SECRET}\n")).is_none());
        assert_eq!(format!("{:?}", Token::new(SECRET).unwrap()), "Token(secret)");
    }

    #[test]
    fn the_header_must_be_a_bearer_token() {
        let token = Token::new(SECRET).unwrap();
        let code = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
            check(&headers, &token).map_err(|error| error.status.as_u16())
        };
        assert_eq!(code(&format!("Bearer {SECRET}")), Ok(()));
        assert_eq!(code(&format!("bearer  {SECRET} ")), Ok(()));
        for value in ["", "Bearer", "Bearer ", SECRET, "Basic 0123456789abcdef0123456789abcdef"] {
            assert_eq!(code(value), Err(401), "{value}");
        }
        assert_eq!(check(&HeaderMap::new(), &token).unwrap_err().code, "unauthorized");
        let mut twice = HeaderMap::new();
        for _ in 0..2 {
            twice.append(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {SECRET}")).unwrap());
        }
        assert!(check(&twice, &token).is_err());
    }
}
