//! AES-256-GCM behind [`proto::port::Cipher`].
//!
//! Two backends, chosen by feature, that write the same bytes: AWS-LC where a C compiler is at hand, RustCrypto's
//! `aes-gcm` elsewhere. With both features AWS-LC is used.
//!
//! Nonces are the caller's duty; a nonce that is used twice under one key gives both plaintexts away.

#[cfg(feature = "aws-lc")]
mod aws;
#[cfg(any(feature = "portable", test))]
mod portable;

use std::sync::Arc;

use proto::port::Cipher;

#[cfg(feature = "aws-lc")]
pub use aws::AwsLcCipher;
#[cfg(any(feature = "portable", test))]
pub use portable::PortableCipher;

/// Returns AES-256-GCM under `key`, from the fastest backend that was compiled in.
#[must_use]
pub fn cipher(key: &[u8; 32]) -> Arc<dyn Cipher> {
    #[cfg(feature = "aws-lc")]
    return Arc::new(AwsLcCipher::new(key));
    #[cfg(not(feature = "aws-lc"))]
    return Arc::new(PortableCipher::new(key));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::port::OpenError;

    /// Every backend of this build.
    fn backends(key: &[u8; 32]) -> Vec<Box<dyn Cipher>> {
        vec![
            #[cfg(feature = "aws-lc")]
            Box::new(AwsLcCipher::new(key)),
            Box::new(PortableCipher::new(key)),
        ]
    }

    fn sealed(cipher: &dyn Cipher, nonce: &[u8; 12], associated: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut bytes = plain.to_vec();
        let tag = cipher.seal(nonce, associated, &mut bytes);
        bytes.extend_from_slice(&tag);
        bytes
    }

    #[test]
    fn sealing_is_standard_aes_256_gcm() {
        // Test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation".
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308").try_into().unwrap();
        let nonce = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        let associated = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = hex(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ));
        let expected = hex(concat!(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa",
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            "76fc6ece0f4e1768cddf8853bb2d551b"
        ));
        for cipher in backends(&key) {
            assert_eq!(sealed(&*cipher, &nonce, &associated, &plain), expected);
        }
        assert_eq!(sealed(&*cipher(&key), &nonce, &associated, &plain), expected);
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    #[cfg(feature = "aws-lc")]
    fn unit_tests_compare_both_backends() {
        assert_eq!(backends(&[0; 32]).len(), 2);
    }

    proptest! {
        #[test]
        fn backends_agree_and_open_each_other(
            key: [u8; 32],
            nonce: [u8; 12],
            associated in prop::collection::vec(any::<u8>(), 0..70),
            plain in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let backends = backends(&key);
            let expected = sealed(&*backends[0], &nonce, &associated, &plain);
            for cipher in &backends {
                let mut bytes = sealed(&**cipher, &nonce, &associated, &plain);
                prop_assert_eq!(&bytes, &expected);
                for opener in &backends {
                    let mut bytes = bytes.clone();
                    prop_assert_eq!(&*opener.open(&nonce, &associated, &mut bytes).unwrap(), &plain[..]);
                }
                bytes[0] ^= 1;
                prop_assert_eq!(cipher.open(&nonce, &associated, &mut bytes), Err(OpenError));
            }
        }

        #[test]
        fn other_key_nonce_or_associated_data_opens_nothing(key: [u8; 32], nonce: [u8; 12], bit in 0usize..8) {
            let flip = |byte: &mut u8| *byte ^= 1 << bit;
            let (mut other_key, mut other_nonce) = (key, nonce);
            flip(&mut other_key[31]);
            flip(&mut other_nonce[11]);
            let refuses = |cipher: &dyn Cipher, nonce, associated, bytes: &[u8]| {
                cipher.open(nonce, associated, &mut bytes.to_vec()) == Err(OpenError)
            };
            for (cipher, other) in backends(&key).into_iter().zip(backends(&other_key)) {
                let bytes = sealed(&*cipher, &nonce, b"here", b"plain");
                prop_assert!(!refuses(&*cipher, &nonce, b"here", &bytes));
                prop_assert!(refuses(&*other, &nonce, b"here", &bytes));
                prop_assert!(refuses(&*cipher, &other_nonce, b"here", &bytes));
                prop_assert!(refuses(&*cipher, &nonce, b"there", &bytes));
                for len in 0..bytes.len() {
                    prop_assert!(refuses(&*cipher, &nonce, b"here", &bytes[..len]));
                }
            }
        }
    }
}
