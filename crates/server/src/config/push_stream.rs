//! `[push_stream]`: the listener that speaks as nginx's push-stream module does. Keys are named as the module's
//! directives are, without their `push_stream_`; a duration ends in `_s`, and 0 is what leaving the directive out is.

use super::check::{address, any, number};
use super::written::{At, Place, WrittenPushStream, WrittenTemplates, Wrong};
use super::{Config, Network};
use fanfare_proto::channel::ChannelName;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

const YEAR_S: u32 = 365 * 24 * 60 * 60;

/// The listener, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushStreamSettings {
    /// The id of the app whose channels it shows.
    pub app: Arc<str>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who may publish, delete and see statistics.
    pub publish_from: Vec<Network>,
    /// Whether messages are kept for those who come later, where the app's history rules let them be.
    pub store_messages: bool,
    /// How long; 0 = as long as there is room.
    pub message_ttl_s: u32,
    /// How many of a channel; 0 = as the app's history rule says.
    pub max_messages_stored_per_channel: u32,
    /// 0 = unlimited. Beyond: 403.
    pub max_subscribers_per_channel: u32,
    /// 0 = as the app's limits say. Beyond: 400.
    pub max_channel_id_length: u32,
    /// Whether only a channel with a stored message may be subscribed to.
    pub authorized_channels_only: bool,
    /// The channel that hears of channels and subscribers coming and going.
    pub events_channel_id: Option<Arc<str>>,
    /// Whether that channel may be subscribed to.
    pub allow_connections_to_events_channel: bool,
    /// How long a subscriber may stay; 0 = for ever.
    pub subscriber_connection_ttl_s: u32,
    /// The same of a long-poll; 0 = as any other.
    pub longpolling_connection_ttl_s: u32,
    /// Whether a long-poll that ends without a message is answered with 200 and a message that says so; else 304.
    pub timeout_with_body: bool,
    /// 0 = never.
    pub ping_message_interval_s: u32,
    /// What subscribers hear then.
    pub ping_message_text: Arc<str>,
    /// What subscribers hear of a channel that was deleted.
    pub channel_deleted_message_text: Arc<str>,
    /// Whether a publisher is told about the channel.
    pub channel_info_on_publish: bool,
    /// Whether what a WebSocket subscriber says is published to its channels.
    pub websocket_allow_publish: bool,
    /// The value of `Access-Control-Allow-Origin`; `None`: no CORS headers.
    pub allowed_origins: Option<Arc<str>>,
    /// `/sub`.
    pub streaming: Templates,
    /// `/sub` with `X-Nginx-PushStream-Mode: polling`.
    pub polling: Templates,
    /// `/lp`.
    pub long_polling: Templates,
    /// `/ev`.
    pub eventsource: Templates,
    /// `/ws`.
    pub websocket: Templates,
}

/// What one mode writes around messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates {
    /// Before everything; empty: nothing.
    pub header: Arc<str>,
    /// A message, with its tokens (`~text~`, …).
    pub message: Arc<str>,
    /// After everything; empty: nothing.
    pub footer: Arc<str>,
    /// What an answer says it is, where the mode does not say so itself.
    pub content_type: Arc<str>,
}

impl Default for Templates {
    fn default() -> Templates {
        Templates {
            header: "".into(),
            message: "~text~".into(),
            footer: "".into(),
            content_type: "text/plain; charset=utf-8".into(),
        }
    }
}

impl PushStreamSettings {
    /// Every key at its default.
    pub fn new(app: Arc<str>) -> PushStreamSettings {
        PushStreamSettings {
            app,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9080)),
            publish_from: ["127.0.0.0/8", "::1"].map(|text| Network::parse(text).expect("both are networks")).into(),
            store_messages: true,
            message_ttl_s: 30 * 60,
            max_messages_stored_per_channel: 0,
            max_subscribers_per_channel: 0,
            max_channel_id_length: 0,
            authorized_channels_only: false,
            events_channel_id: None,
            allow_connections_to_events_channel: false,
            subscriber_connection_ttl_s: 0,
            longpolling_connection_ttl_s: 0,
            timeout_with_body: false,
            ping_message_interval_s: 0,
            ping_message_text: " ".into(),
            channel_deleted_message_text: "Channel deleted".into(),
            channel_info_on_publish: true,
            websocket_allow_publish: false,
            allowed_origins: None,
            streaming: Templates::default(),
            polling: Templates::default(),
            long_polling: Templates::default(),
            eventsource: Templates::default(),
            websocket: Templates::default(),
        }
    }
}

/// Checks the table; the rest of the configuration has been.
pub(super) fn checked(written: At<WrittenPushStream>, config: &Config) -> Result<PushStreamSettings, Wrong> {
    let At { value: written, place } = written;
    let listen_place = written.listen.as_ref().map_or(place.clone(), |at| at.place.clone());
    let default = PushStreamSettings::new(app(written.app.map(|at| (at.value.0, at.place)), place, config)?);
    let seconds = |written, default| number(written, 0..=YEAR_S, default);
    let networks = written.publish_from.map(|at| at.value.into_iter().map(network).collect::<Result<_, _>>());
    let settings = PushStreamSettings {
        listen: address(written.listen, default.listen)?,
        publish_from: networks.transpose()?.unwrap_or(default.publish_from),
        store_messages: any(written.store_messages, default.store_messages),
        message_ttl_s: seconds(written.message_ttl_s, default.message_ttl_s)?,
        max_messages_stored_per_channel: any(written.max_messages_stored_per_channel, 0),
        max_subscribers_per_channel: any(written.max_subscribers_per_channel, 0),
        max_channel_id_length: any(written.max_channel_id_length, 0),
        authorized_channels_only: any(written.authorized_channels_only, false),
        events_channel_id: written.events_channel_id.map(events_channel).transpose()?.flatten(),
        allow_connections_to_events_channel: any(written.allow_connections_to_events_channel, false),
        subscriber_connection_ttl_s: seconds(written.subscriber_connection_ttl_s, 0)?,
        longpolling_connection_ttl_s: seconds(written.longpolling_connection_ttl_s, 0)?,
        timeout_with_body: any(written.timeout_with_body, false),
        ping_message_interval_s: seconds(written.ping_message_interval_s, 0)?,
        ping_message_text: text(written.ping_message_text, default.ping_message_text),
        channel_deleted_message_text: text(written.channel_deleted_message_text, default.channel_deleted_message_text),
        channel_info_on_publish: any(written.channel_info_on_publish, true),
        websocket_allow_publish: any(written.websocket_allow_publish, false),
        allowed_origins: written.allowed_origins.map(header_value).transpose()?.filter(|value| !value.is_empty()),
        streaming: templates(written.streaming)?,
        polling: templates(written.polling)?,
        long_polling: templates(written.long_polling)?,
        eventsource: templates(written.eventsource)?,
        websocket: templates(written.websocket)?,
        ..default
    };
    // Port 0 is a different one each time.
    let taken = [config.listen, config.admin_listen].contains(&settings.listen) && settings.listen.port() != 0;
    if taken {
        return Err(Wrong::at(listen_place, format!("{} is another listener's already", settings.listen)));
    }
    Ok(settings)
}

fn app(written: Option<(String, Place)>, table: Place, config: &Config) -> Result<Arc<str>, Wrong> {
    let Some((id, place)) = written else {
        return Err(Wrong::at(table, "`[push_stream]` needs `app`: the id of the app whose channels it shows"));
    };
    match config.apps.iter().find(|app| *app.id == *id) {
        Some(app) => Ok(app.id.clone()),
        None => Err(Wrong::at(place, format!("there is no app with the id \"{id}\""))),
    }
}

fn network(entry: At<String>) -> Result<Network, Wrong> {
    Network::parse(&entry.value).map_err(|message| Wrong::at(entry.place, message))
}

fn events_channel(entry: At<String>) -> Result<Option<Arc<str>>, Wrong> {
    if entry.value.is_empty() {
        return Ok(None);
    }
    match ChannelName::parse(&entry.value, fanfare_proto::channel::NAME_LEN_MAX) {
        Ok(_) => Ok(Some(entry.value.into())),
        Err(error) => Err(Wrong::at(entry.place, error.to_string())),
    }
}

fn templates(written: Option<At<WrittenTemplates>>) -> Result<Templates, Wrong> {
    let (written, default) = (any(written, WrittenTemplates::default()), Templates::default());
    Ok(Templates {
        header: text(written.header_template, default.header),
        message: text(written.message_template, default.message),
        footer: text(written.footer_template, default.footer),
        content_type: written.content_type.map(header_value).transpose()?.unwrap_or(default.content_type),
    })
}

fn text(written: Option<At<String>>, default: Arc<str>) -> Arc<str> {
    written.map_or(default, |at| at.value.into())
}

/// Text that may stand in a header.
fn header_value(entry: At<String>) -> Result<Arc<str>, Wrong> {
    let plain = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    match entry.value.bytes().all(plain) {
        true => Ok(entry.value.into()),
        false => Err(Wrong::at(entry.place, "expected text on one line, as it becomes a header")),
    }
}
