//! GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11D), in which 2 generates every non-zero element.
//!
//! Addition is XOR. Multiplication adds logarithms to the base 2.

const POLYNOMIAL: u16 = 0x11D;
const TABLES: Tables = tables();

struct Tables {
    /// Powers of 2, twice over, so that the sum of two logarithms needs no reduction.
    exp: [u8; 510],
    /// Logarithms to the base 2; the entry of 0 is meaningless.
    log: [u8; 256],
}

const fn tables() -> Tables {
    let mut tables = Tables { exp: [0; 510], log: [0; 256] };
    let mut value: u16 = 1;
    let mut power = 0;
    while power < 255 {
        tables.exp[power] = value as u8;
        tables.exp[power + 255] = value as u8;
        tables.log[value as usize] = power as u8;
        value <<= 1;
        if value > 0xff {
            value ^= POLYNOMIAL;
        }
        power += 1;
    }
    tables
}

/// Returns `a · b`.
pub(crate) const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    TABLES.exp[TABLES.log[a as usize] as usize + TABLES.log[b as usize] as usize]
}

/// Returns `1 / a`.
///
/// # Panics
/// If `a` is 0.
pub(crate) const fn inverse(a: u8) -> u8 {
    assert!(a != 0, "invariant: zero is never inverted");
    TABLES.exp[255 - TABLES.log[a as usize] as usize]
}

/// Returns the products of `coefficient` with every element.
pub(crate) fn products(coefficient: u8) -> [u8; 256] {
    let mut row = [0; 256];
    for (element, product) in row.iter_mut().enumerate() {
        *product = mul(coefficient, element as u8);
    }
    row
}

/// Adds `coefficient · source` to the front of `target`.
///
/// Cost: one table lookup per byte; 0 costs nothing and 1 is plain XOR.
///
/// # Panics
/// If `source` is longer than `target`.
pub(crate) fn mul_add(coefficient: u8, source: &[u8], target: &mut [u8]) {
    let target = &mut target[..source.len()];
    match coefficient {
        0 => {}
        1 => target.iter_mut().zip(source).for_each(|(sum, byte)| *sum ^= byte),
        _ => {
            let products = products(coefficient);
            target.iter_mut().zip(source).for_each(|(sum, byte)| *sum ^= products[usize::from(*byte)]);
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    /// Schoolbook multiplication of polynomials over GF(2), then long division: shares nothing with the tables.
    pub(crate) fn slow_mul(a: u8, b: u8) -> u8 {
        let mut product: u16 = 0;
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                product ^= u16::from(a) << bit;
            }
        }
        for bit in (8..16).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11D << (bit - 8);
            }
        }
        product as u8
    }
}

#[cfg(test)]
mod tests {
    use super::testing::slow_mul;
    use super::*;

    #[test]
    fn every_product_equals_the_schoolbook_product() {
        for a in 0..=255 {
            let row = products(a);
            for b in 0..=255 {
                assert_eq!(mul(a, b), slow_mul(a, b), "{a} · {b}");
                assert_eq!(row[usize::from(b)], slow_mul(a, b), "{a} · {b}");
            }
        }
    }

    #[test]
    fn every_inverse_inverts() {
        for a in 1..=255 {
            assert_eq!(slow_mul(a, inverse(a)), 1, "1 / {a}");
        }
    }

    #[test]
    fn mul_add_leaves_what_lies_behind_a_short_source() {
        for coefficient in [0, 1, 2, 0x8e] {
            let mut target = [7, 8, 9];
            mul_add(coefficient, &[0xab, 0xcd], &mut target);
            assert_eq!(target, [7 ^ slow_mul(coefficient, 0xab), 8 ^ slow_mul(coefficient, 0xcd), 9]);
        }
    }
}
