//! The push-stream face: a listener whose URLs and answers are those of nginx's push-stream module, over the channels of one app.
//!
//! A thin adapter: what is published here reaches the subscribers of every other door, and the reverse. Subscribers here are
//! tasks, and not connections of an event loop; towards the hub they are one more loop together (`switchboard`).
//!
//! | file | what it is |
//! |---|---|
//! | `asked` | what a request asks for: endpoint, channels, where to begin |
//! | `publisher`, `statistics` | `/pub` and `/channels-stats` |
//! | `subscriber`, `polling`, `websocket` | the ways to subscribe |
//! | `switchboard`, `reader` | who listens; one subscriber's view of its channels |
//! | `template`, `forms` | how messages are written |
//! | `registry` | channels in use |
//! | `info`, `answer`, `refusal`, `clock` | what is told, and how |
//!
//! Not here: private and presence channels, which nobody can show a signature for.

mod answer;
mod asked;
mod clock;
mod forms;
mod info;
mod polling;
mod publisher;
mod reader;
mod refusal;
mod registry;
mod statistics;
mod subscriber;
mod switchboard;
mod template;
mod websocket;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fanfare_hub::{ChannelKey, Encode, Form, Hub, Mail, Mailbox};
use hyper::body::Incoming;
use hyper::header::ORIGIN;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::watch;

use self::asked::{Arguments, AskedChannel, Endpoint, Mode, Start, check_id};
use self::forms::{Encoder, Forms};
use self::polling::Poll;
use self::reader::{Reader, Wanted};
use self::refusal::Refused;
use self::registry::Registry;
use self::switchboard::{ChannelFull, Switchboard};
use crate::apps::App;
use crate::config::PushStreamSettings;
use crate::edge::Body;
use crate::edge::door::{Http, Peer};
use crate::edge::upgrade::Gatekeeper;
use crate::ingest::recall::Recall;

/// How often channels are looked for that nobody uses any more, and the app is.
const SWEEP: Duration = Duration::from_secs(5);

/// The listener.
pub struct PushStream {
    settings: PushStreamSettings,
    hub: Hub,
    recall: Recall,
    gatekeeper: Gatekeeper,
    board: Switchboard,
    forms: Arc<Forms>,
    encoder: Arc<dyn Encode>,
    registry: Registry,
    hostname: String,
    started_at: Instant,
    stopping: watch::Receiver<bool>,
    /// The app is switched off or gone, so its subscribers have to go.
    app_gone: watch::Sender<bool>,
}

/// The listener's end of the door; cheap to clone.
#[derive(Clone)]
pub struct Face(pub Arc<PushStream>);

impl Http for Face {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let endpoint = Endpoint::of(request.uri().path()).map(|(endpoint, _)| endpoint);
        let mut response = match self.serve(request).await {
            Ok(response) => response,
            Err(refused) => refused.response(),
        };
        answer::set_common(response.headers_mut(), endpoint, self.0.settings.allowed_origins.as_deref());
        response
    }
}

impl Face {
    async fn serve(&self, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        let face = &self.0;
        let (endpoint, rest) = Endpoint::of(request.uri().path()).ok_or(Refused::Nowhere)?;
        let role = face.gatekeeper.settings.role;
        if !(if matches!(endpoint, Endpoint::Subscribe(_)) { role.is_edge() } else { role.is_api() }) {
            return Err(Refused::Elsewhere { role });
        }
        let asked = asked::channels(rest, Arguments(request.uri().query().unwrap_or_default()));
        if !matches!(endpoint, Endpoint::Subscribe(_)) {
            face.check_peer(&request)?;
        }
        if request.method() == Method::OPTIONS && endpoint != Endpoint::Statistics {
            return Ok(answer::empty(StatusCode::OK));
        }
        let app = face.app()?;
        match endpoint {
            Endpoint::Publish => face.publisher(&app, request, asked).await,
            Endpoint::Statistics => face.statistics(&app, request.method(), request.headers(), asked).await,
            Endpoint::Subscribe(mode) => self.subscriber(app, mode, request, asked).await,
        }
    }

    async fn subscriber(
        &self,
        app: Arc<App>,
        mode: Mode,
        request: Request<Incoming>,
        asked: Vec<AskedChannel>,
    ) -> Result<Response<Body>, Refused> {
        let face = &self.0;
        if request.method() != Method::GET {
            return Err(Refused::Method { allow: "GET" });
        }
        let arguments = Arguments(request.uri().query().unwrap_or_default());
        let start = Start::of(request.headers(), arguments);
        let mode = mode.overridden(request.headers());
        if mode == Mode::WebSocket {
            let response = websocket::handshake(request.headers())?;
            let verdict = match face.admit(app, &request, asked).await {
                Ok((wanted, guest)) => websocket::admit(face, &wanted, &start, guest).await,
                Err(refused) => Err(refused),
            };
            tokio::spawn(websocket::serve(face.clone(), hyper::upgrade::on(request), verdict));
            return Ok(response);
        }
        let callback = polling::callback(arguments.get("callback"))?;
        let (wanted, guest) = face.admit(app, &request, asked).await?;
        match mode {
            Mode::Polling | Mode::LongPolling => Poll { mode, wanted, start, callback }.answer(face, guest).await,
            _ => subscriber::stream(face.clone(), mode, wanted, start, guest).await,
        }
    }
}

/// A listener whose mailbox and forms exist, so that the hub can be made before it opens.
pub struct Prepared {
    settings: PushStreamSettings,
    board: switchboard::Prepared,
    forms: Arc<Forms>,
    encoder: Arc<dyn Encode>,
}

/// Reads the templates and makes the mailbox. `inner`: the forms that the node has without this listener.
pub fn prepare(settings: PushStreamSettings, inner: Arc<dyn Encode>) -> (Prepared, Mailbox<Mail>) {
    let forms = Arc::new(Forms::new(&settings, inner.forms()));
    let encoder = Arc::new(Encoder { inner, forms: forms.clone() });
    let (board, mailbox) = switchboard::prepare();
    (Prepared { settings, board, forms, encoder }, mailbox)
}

impl Prepared {
    /// All forms of the node.
    pub fn encoder(&self) -> Arc<dyn Encode> {
        self.encoder.clone()
    }

    /// Opens the listener, as the hub's loop number `from`, on the current tokio runtime. Streams end when `stopping` turns true.
    pub fn open(
        self,
        hub: Hub,
        recall: Recall,
        gatekeeper: Gatekeeper,
        from: usize,
        stopping: watch::Receiver<bool>,
    ) -> Face {
        let Prepared { settings, board, forms, encoder } = self;
        let board = board.start(hub.requests(), from, gatekeeper.settings.outbox_bytes_max);
        let face = Arc::new(PushStream {
            settings,
            hub,
            recall,
            gatekeeper,
            board,
            forms,
            encoder,
            registry: Registry::default(),
            hostname: hostname(),
            started_at: Instant::now(),
            stopping,
            app_gone: watch::Sender::new(false),
        });
        tokio::spawn(face.clone().look_after());
        Face(face)
    }
}

impl PushStream {
    /// The app, as it is configured now.
    fn app(&self) -> Result<Arc<App>, Refused> {
        self.gatekeeper.apps.by_id(&self.settings.app).filter(|app| app.enabled).ok_or(Refused::Disabled)
    }

    /// Only some machines may publish and see statistics.
    fn check_peer(&self, request: &Request<Incoming>) -> Result<(), Refused> {
        let peer = request.extensions().get::<Peer>();
        match peer.is_some_and(|peer| self.settings.publish_from.iter().any(|network| network.contains(peer.0))) {
            true => Ok(()),
            false => Err(Refused::NotFromHere),
        }
    }

    /// The channels that a subscriber may listen to, and its place.
    async fn admit(
        self: &Arc<Self>,
        app: Arc<App>,
        request: &Request<Incoming>,
        asked: Vec<AskedChannel>,
    ) -> Result<(Vec<Wanted>, Guest), Refused> {
        let origin = request.headers().get(ORIGIN).and_then(|origin| origin.to_str().ok());
        if !app.origin_allowed(origin) {
            return Err(Refused::Origin);
        }
        let channels_max = app.limits.channels_per_connection_max as usize;
        match asked.len() {
            0 => return Err(Refused::NoChannel),
            n if channels_max > 0 && n > channels_max => return Err(Refused::TooManyChannels),
            _ => {}
        }
        for asked in &asked {
            self.check_channel(&app, &asked.id).await?;
        }
        if self.gatekeeper.take_place(Some(&app)).is_err() {
            return Err(Refused::Full);
        }
        let wanted = |asked: AskedChannel| Wanted { key: self.key(&app, &asked.id), backtrack: asked.backtrack };
        let wanted = asked.into_iter().map(wanted).collect();
        Ok((wanted, Guest { app, face: self.clone(), channels: Vec::new() }))
    }

    async fn check_channel(&self, app: &App, id: &str) -> Result<(), Refused> {
        check_id(id, self.id_len_max(app))?;
        let is_events = self.settings.events_channel_id.as_deref() == Some(id);
        if is_events && !self.settings.allow_connections_to_events_channel {
            return Err(Refused::EventsForbidden);
        }
        if self.settings.authorized_channels_only && self.info(app, id).await?.is_none_or(|info| info.stored == 0) {
            return Err(Refused::MayNotCreate);
        }
        Ok(())
    }

    /// Puts a subscriber on its channels and waits until it is.
    async fn subscribe(&self, wanted: &[Wanted], form: Form, guest: &mut Guest) -> Result<Reader, Refused> {
        let keys: Vec<ChannelKey> = wanted.iter().map(|wanted| wanted.key.clone()).collect();
        let subscribers_max = self.settings.max_subscribers_per_channel as usize;
        let subscription = self.board.subscribe(keys.clone(), form, subscribers_max, guest.app.subscription_count);
        let subscription = subscription.map_err(|ChannelFull| Refused::TooManySubscribers)?;
        let reader = Reader::open(subscription, wanted).await?;
        for key in keys {
            self.used(&guest.app, key.name()).await;
            self.announce(&guest.app, "client_subscribed", key.name()).await;
            guest.channels.push(key);
        }
        Ok(reader)
    }

    /// Returns when the server stops, or the app does.
    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut stopping, mut app_gone) = (self.stopping.clone(), self.app_gone.subscribe());
        async move {
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => {}
                _ = app_gone.wait_for(|gone| *gone) => {}
            }
        }
    }

    fn key(&self, app: &App, id: &str) -> ChannelKey {
        ChannelKey::new(&app.id, id)
    }

    fn id_len_max(&self, app: &App) -> usize {
        match self.settings.max_channel_id_length as usize {
            0 => app.limits.channel_name_len_max,
            len_max => len_max.min(app.limits.channel_name_len_max),
        }
    }

    /// Forgets channels that nobody uses any more, and notices when the app goes, for as long as the server runs.
    async fn look_after(self: Arc<Self>) {
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            sweep.tick().await;
            let app = self.app();
            self.app_gone.send_replace(app.is_err());
            let Ok(app) = app else { continue };
            for id in self.registry.inactive(Instant::now()) {
                let in_use = self.info(&app, &id).await.map(|info| info.is_some_and(|info| info.in_use()));
                // What cannot be known now is asked again in the next round.
                if in_use.is_ok_and(|in_use| !in_use) && self.registry.forget(&id) {
                    self.announce(&app, "channel_destroyed", &id).await;
                }
            }
        }
    }
}

/// A subscriber's place among the connections of its app and of the node.
pub struct Guest {
    app: Arc<App>,
    face: Arc<PushStream>,
    /// Those that it was told to be on.
    channels: Vec<ChannelKey>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.face.gatekeeper.occupancy.fetch_sub(1, Ordering::Relaxed);
        self.app.usage.disconnect();
        if self.face.settings.events_channel_id.is_none() || self.channels.is_empty() {
            return;
        }
        let (app, face, channels) = (self.app.clone(), self.face.clone(), std::mem::take(&mut self.channels));
        tokio::spawn(async move {
            for key in channels {
                face.announce(&app, "client_unsubscribed", key.name()).await;
            }
        });
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().replace(['"', '\\'], "")
}
