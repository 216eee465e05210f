//! The store in memory keeps the contract, and does under random verbs what the model does.

use std::sync::Arc;

use fanfare_jobs::testing::{LIMITS, model};
use fanfare_jobs::{JobStore, MemoryStore};
use proptest::prelude::*;

async fn start() -> Arc<dyn JobStore> {
    Arc::new(MemoryStore::new(LIMITS))
}

fanfare_jobs::job_store_contract!(
    #[tokio::test]
    start
);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn the_store_does_what_the_model_does(verbs in model::verbs()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
        runtime.block_on(async { model::compare(start().await, verbs, async |store| store).await });
    }
}
