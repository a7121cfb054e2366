//! The names in certificates: `n<id>.<cluster>.raftwerk` for a node, and `<cluster>.raftwerk` for the
//! cluster's authority.
//!
//! Pure text in both directions, one spelling per node; what is not here: certificates (`identity.rs`,
//! `tls.rs`).
use crate::transport::PeerId;

const SUFFIX: &str = ".raftwerk";

/// Whether a word may name a cluster: a DNS label of 1 to 63 characters from `a-z`, `0-9` and inner `-`.
pub(crate) fn is_cluster_name(word: &str) -> bool {
    let plain = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (1..=63).contains(&word.len()) && plain && !word.starts_with('-') && !word.ends_with('-')
}

/// The name of a node's certificate.
pub(crate) fn node_name(cluster: &str, node: PeerId) -> String {
    format!("n{}.{cluster}{SUFFIX}", node.0)
}

/// The name of a cluster's authority.
#[cfg(any(feature = "issue", test))]
pub(crate) fn authority_name(cluster: &str) -> String {
    format!("{cluster}{SUFFIX}")
}

/// Cluster and node of a certificate's name; `None` unless it is spelled as [`node_name`] does.
pub(crate) fn parse_node_name(name: &str) -> Option<(&str, PeerId)> {
    let (node, cluster) = name.strip_suffix(SUFFIX)?.split_once('.')?;
    let digits = node.strip_prefix('n')?;
    let number = digits.parse::<u64>().ok()?;
    let canonical =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
    (canonical && is_cluster_name(cluster)).then_some((cluster, PeerId(number)))
}

/// The cluster of an authority's name.
#[cfg(any(feature = "issue", test))]
pub(crate) fn parse_authority_name(name: &str) -> Option<&str> {
    name.strip_suffix(SUFFIX).filter(|cluster| is_cluster_name(cluster))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_canonical_spelling_names_a_node() {
        assert_eq!(parse_node_name("n7.blue.raftwerk"), Some(("blue", PeerId(7))));
        assert_eq!(parse_node_name("n0.blue.raftwerk"), Some(("blue", PeerId(0))));
        let wrong = [
            "n07.blue.raftwerk",
            "n+7.blue.raftwerk",
            "7.blue.raftwerk",
            "n7.raftwerk",
            "n7.blue.raftwerk.example",
            "n7.a.blue.raftwerk",
            "n7.Blue.raftwerk",
            "n7.-blue.raftwerk",
            "n18446744073709551616.blue.raftwerk",
            "n.blue.raftwerk",
            "",
        ];
        for name in wrong {
            assert_eq!(parse_node_name(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn names_survive_a_round_trip(id: u64, cluster in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?") {
            let name = node_name(&cluster, PeerId(id));
            prop_assert_eq!(parse_node_name(&name), Some((cluster.as_str(), PeerId(id))));
            let authority = authority_name(&cluster);
            prop_assert_eq!(parse_authority_name(&authority), Some(cluster.as_str()));
        }
    }
}
