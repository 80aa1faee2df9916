//! The query of a request: `?name=value&flag`.
//!
//! An unknown or repeated name is an error: a misspelt `recursive` must not quietly mean something else.

use super::error::ApiError;
use super::text::decode;

/// Parameters of one query; no call has half as many. Each is compared with those before it, to find one given twice.
const PARAMETERS_MAX: usize = 16;

/// The parameters that were not asked for yet.
#[derive(Debug)]
pub(crate) struct Query {
    pairs: Vec<(String, Option<String>)>,
}

impl Query {
    /// Reads the part of a request target after `?`.
    pub(crate) fn parse(raw: Option<&str>) -> Result<Query, ApiError> {
        let mut pairs: Vec<(String, Option<String>)> = Vec::new();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (pair, None),
            };
            let not_text = || ApiError::bad_query("the query is not percent-encoded UTF-8");
            let name = decode(name.as_bytes()).ok_or_else(not_text)?;
            let value = value.map(|value| decode(value.as_bytes()).ok_or_else(not_text)).transpose()?;
            if pairs.len() == PARAMETERS_MAX {
                return Err(ApiError::bad_query(format!("a query has at most {PARAMETERS_MAX} parameters")));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(ApiError::bad_query(format!("the parameter '{name}' is given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Query { pairs })
    }

    fn take(&mut self, name: &str) -> Option<Option<String>> {
        let at = self.pairs.iter().position(|(other, _)| other == name)?;
        Some(self.pairs.swap_remove(at).1)
    }

    /// A parameter with a value.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value)),
            Some(None) => Err(ApiError::bad_query(format!("the parameter '{name}' needs a value"))),
        }
    }

    /// A switch: absent, or present with no value, `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name).map(|value| value.unwrap_or_else(|| "true".to_owned())).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(ApiError::bad_query(format!("the parameter '{name}' is true or false"))),
        }
    }

    /// A number of 1 to `max`.
    pub(crate) fn number(&mut self, name: &str, max: usize) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse() {
            Ok(number) if (1..=max).contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::bad_query(format!("the parameter '{name}' is a number from 1 to {max}"))),
        }
    }

    /// Call when everything that the call knows was taken.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::bad_query(format!("this call has no parameter '{name}'"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_by_name() {
        let mut query = Query::parse(Some("rename_to=%2Fa%26b+c&replace=true&stat&&limit=10")).unwrap();
        assert_eq!(query.text("rename_to").unwrap().as_deref(), Some("/a&b+c"));
        assert!(query.flag("replace").unwrap() && query.flag("stat").unwrap() && !query.flag("recursive").unwrap());
        assert_eq!(query.number("limit", 10).unwrap(), Some(10));
        query.finish().unwrap();
        Query::parse(None).unwrap().finish().unwrap();
    }

    #[test]
    fn thousands_of_parameters_are_not_compared_with_each_other() {
        let many: Vec<String> = (0..10_000).map(|number| format!("{number:x}")).collect();
        let error = Query::parse(Some(&many.join("&"))).unwrap_err();
        assert!(error.message.contains("at most 16"), "{}", error.message);
        Query::parse(Some(&many[..PARAMETERS_MAX].join("&"))).unwrap();
    }

    #[test]
    fn mistakes_are_named() {
        for (raw, part) in [
            ("recursve=true", "'recursve'"),
            ("recursive=yes", "'recursive' is true or false"),
            ("limit=0", "1 to 5"),
            ("limit=6", "1 to 5"),
            ("limit=-1", "1 to 5"),
            ("limit", "needs a value"),
            ("limit=1&limit=1", "twice"),
            ("limit=%zz", "percent-encoded"),
        ] {
            let read = |raw| {
                let mut query = Query::parse(Some(raw))?;
                query.flag("recursive")?;
                query.number("limit", 5)?;
                query.finish()
            };
            let error: ApiError = read(raw).unwrap_err();
            assert_eq!((error.status.as_u16(), error.code), (400, "bad_query"));
            assert!(error.message.contains(part), "{raw}: {}", error.message);
        }
    }
}
