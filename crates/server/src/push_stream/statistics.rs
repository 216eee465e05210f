//! What is asked about channels: one, several, all of a prefix, everything in sum.

use fanfare_hub::Since;
use hyper::header::HeaderMap;
use hyper::{Method, Response};

use super::asked::AskedChannel;
use super::clock::now_s;
use super::info::{ChannelInfo, Format, NodeInfo, detailed, summary};
use super::refusal::Refused;
use super::{PushStream, answer};
use crate::apps::App;
use crate::edge::Body;

impl PushStream {
    /// Answers a request to `/channels-stats`.
    pub(super) async fn statistics(
        &self,
        app: &App,
        method: &Method,
        headers: &HeaderMap,
        asked: Vec<AskedChannel>,
    ) -> Result<Response<Body>, Refused> {
        if *method != Method::GET {
            return Err(Refused::Method { allow: "GET" });
        }
        let format = Format::of(headers);
        let node = self.node(app).await?;
        if asked.iter().any(|asked| asked.id.len() > self.id_len_max(app)) {
            return Err(Refused::TooLong);
        }
        // The first pattern counts, and then nothing else does.
        let pattern = asked.iter().find_map(|asked| match asked.id.split_once('*') {
            None if asked.id == "ALL" => Some(""),
            None => None,
            Some((prefix, _)) => Some(prefix),
        });
        let text = match (pattern, &asked[..]) {
            (None, []) => {
                let all = self.infos(app, self.known(app, "").await?).await?;
                summary(&node, &sum(&all), format)
            }
            (Some(prefix), _) => detailed(&node, &self.infos(app, self.known(app, prefix).await?).await?, format),
            (None, several) => {
                let ids = several.iter().map(|asked| asked.id.clone()).collect();
                match &self.infos(app, ids).await?[..] {
                    [] => return Err(Refused::Unknown),
                    [only] => only.text(format),
                    several => detailed(&node, several, format),
                }
            }
        };
        Ok(answer::typed(format.content_type(), http_body_util::Full::from(text)))
    }

    /// About a channel; `None` if there is none.
    pub(super) async fn info(&self, app: &App, id: &str) -> Result<Option<ChannelInfo>, Refused> {
        let key = self.key(app, id);
        let known = self.registry.get(id);
        let history = self.hub.history(&key, &Since::Now, 0).await?;
        let counts = self.hub.counts(&key).await?;
        let info = ChannelInfo {
            id: id.to_owned(),
            published: history.now.position.offset + known.unwrap_or(0),
            stored: history.held.messages as u64,
            subscribers: counts.subscribers,
        };
        Ok((known.is_some() || info.in_use()).then_some(info))
    }

    /// Whether there is such a channel.
    pub(super) async fn exists(&self, app: &App, id: &str) -> Result<bool, Refused> {
        Ok(self.info(app, id).await?.is_some())
    }

    async fn infos(&self, app: &App, ids: Vec<String>) -> Result<Vec<ChannelInfo>, Refused> {
        let mut infos = Vec::with_capacity(ids.len());
        for id in ids {
            infos.extend(self.info(app, &id).await?);
        }
        Ok(infos)
    }

    /// The open channels whose ids begin so: those in use here, and those with a subscriber at any door.
    async fn known(&self, app: &App, prefix: &str) -> Result<Vec<String>, Refused> {
        let mut ids = self.registry.ids(prefix);
        let subscribed = self.hub.channels(&app.id, prefix).await?;
        ids.extend(
            subscribed.into_iter().map(|(id, _)| id).filter(|id| super::asked::check_id(id, usize::MAX).is_ok()),
        );
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// About the node, as of now.
    pub(super) async fn node(&self, app: &App) -> Result<NodeInfo, Refused> {
        Ok(NodeInfo {
            hostname: self.hostname.clone(),
            now_s: now_s(),
            uptime_s: self.started_at.elapsed().as_secs(),
            channels: self.known(app, "").await?.len(),
        })
    }
}

fn sum(channels: &[ChannelInfo]) -> ChannelInfo {
    let none = ChannelInfo { id: String::new(), published: 0, stored: 0, subscribers: 0 };
    channels.iter().fold(none, |sum, channel| ChannelInfo {
        id: sum.id,
        published: sum.published + channel.published,
        stored: sum.stored + channel.stored,
        subscribers: sum.subscribers + channel.subscribers,
    })
}
