//! Workload identity: SPIFFE ids, trust bundles, leaves and keys, the one mTLS verifier.
