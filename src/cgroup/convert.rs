//! The scales of cgroup v1, in which config.json speaks, turned into those of v2.

/// `cpu.weight` (1 to 10000, default 100) for cpu.shares (2 to 262144, default 1024); 0 stands for "not set".
///
/// The curve goes through minimum, default and maximum of both scales: 10^((l² + 125 l)/612 - 7/34) with l = log2 of
/// the shares, rounded up. Kubernetes, crun and runc agreed on it in 2025, for the linear map made 39 of 1024.
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// `io.weight` (1 to 10000) for a blkio weight (10 to 1000), linearly.
pub fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.clamp(10, 1000) - 10) * 9999 / 990
}

/// `memory.swap.max` for config.json's swap, which is memory and swap together: the limit, -1 for none, `None` for
/// "leave it".
///
/// # Errors
/// A total that no swap limit can be worked out from.
pub fn swap_limit(limit: i64, swap: i64) -> Result<Option<i64>, String> {
    match (limit, swap) {
        (-1, 0) | (_, -1) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (-1, swap) => Ok(Some(swap)),
        (0, _) => Err("unable to set swap limit without memory limit: set linux.resources.memory.limit too".into()),
        (limit, _) if limit < 0 => Err(format!("linux.resources.memory.limit is {limit}: use -1 or a number of bytes")),
        (limit, swap) if swap < limit => {
            Err(format!("is {swap}, memory and swap together, so it should be >= memory limit, which is {limit}"))
        }
        (limit, swap) => Ok(Some(swap - limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_curve_meets_minimum_default_and_maximum() {
        let curve = [
            (0, 0),
            (1, 1),
            (2, 1),
            (3, 2),
            (100, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (3333, 256),
            (131_072, 5478),
        ];
        for (shares, weight) in curve {
            assert_eq!(cpu_weight(shares), weight, "{shares} shares");
        }
        assert_eq!(cpu_weight(262_144), 10_000);
        assert_eq!(cpu_weight(u64::MAX), 10_000);
    }

    #[test]
    fn io_weights_are_linear() {
        assert_eq!((io_weight(10), io_weight(500), io_weight(750), io_weight(1000)), (1, 4950, 7475, 10_000));
    }

    #[test]
    fn swap_is_what_the_total_leaves() {
        assert_eq!(swap_limit(-1, 0), Ok(Some(-1)));
        assert_eq!(swap_limit(0, -1), Ok(Some(-1)));
        assert_eq!(swap_limit(100, 0), Ok(None));
        assert_eq!(swap_limit(-1, 50), Ok(Some(50)));
        assert_eq!(swap_limit(100, 100), Ok(Some(0)));
        assert_eq!(swap_limit(100, 150), Ok(Some(50)));
        assert!(swap_limit(0, 50).unwrap_err().contains("without memory limit"));
        assert!(swap_limit(100, 50).unwrap_err().contains(">= memory limit"));
        assert!(swap_limit(-2, 50).is_err());
    }
}
