//! The in-memory implementations keep the contracts.

mod broker {
    use std::sync::Arc;

    use fanfare_hub::memory::MemoryBroker;
    use fanfare_hub::{Broker, BrokerEvents};

    async fn start(events: Arc<dyn BrokerEvents>) -> Arc<dyn Broker> {
        Arc::new(MemoryBroker::start(events, 1))
    }

    fanfare_hub::broker_contract!(
        #[tokio::test(start_paused = true)]
        start
    );
}

mod presence {
    use std::sync::Arc;

    use fanfare_hub::PresenceStore;
    use fanfare_hub::memory::MemoryPresence;

    async fn start() -> Arc<dyn PresenceStore> {
        Arc::new(MemoryPresence::default())
    }

    fanfare_hub::presence_contract!(
        #[tokio::test]
        start
    );
}
