//! The validity of certificates, for hosts.

use std::time::Duration;

use x509_cert::{
    Certificate,
    der::{DateTime, Decode},
};

use crate::error::{Error, ErrorKind, Result};

/// The time in which a certificate is valid, counted from the beginning of 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// It is not valid before this.
    pub not_before: Duration,
    /// It is not valid after this.
    pub not_after: Duration,
}

impl Validity {
    /// That of a certificate in DER.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] when it is none.
    pub fn of(der: &[u8]) -> Result<Validity> {
        let certificate = Certificate::from_der(der).map_err(|error| {
            Error::new(ErrorKind::Tls, format!("A certificate cannot be read: {error}"))
        })?;
        let validity = certificate.tbs_certificate().validity();
        Ok(Validity {
            not_before: validity.not_before.to_unix_duration(),
            not_after: validity.not_after.to_unix_duration(),
        })
    }

    /// Checks that it is valid now, as the wall clock says.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] when it has expired or begins in the future.
    pub fn check(&self, now: Duration) -> Result<()> {
        let wrong = |what: &str, at: Duration| {
            let at = DateTime::from_unix_duration(at)
                .map_or_else(|_| String::new(), |at| at.to_string());
            Err(Error::new(ErrorKind::Tls, format!("A certificate {what} {at}")))
        };
        if now > self.not_after {
            return wrong("has expired on", self.not_after);
        }
        if now < self.not_before {
            return wrong("begins in the future, on", self.not_before);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_part_of_the_time() {
        let validity =
            Validity { not_before: Duration::from_secs(100), not_after: Duration::from_secs(200) };
        for (now, says) in [
            (99, Some("A certificate begins in the future, on 1970-01-01T00:01:40Z")),
            (100, None),
            (200, None),
            (201, Some("A certificate has expired on 1970-01-01T00:03:20Z")),
        ] {
            let checked = validity.check(Duration::from_secs(now));
            assert_eq!(checked.err().map(|error| error.text().to_owned()).as_deref(), says);
        }
        assert_eq!(Validity::of(b"none").unwrap_err().kind(), ErrorKind::Tls);
    }
}
