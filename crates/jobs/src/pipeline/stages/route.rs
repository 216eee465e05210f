//! Which channels a record is published to.

use std::sync::Arc;

use serde_json::Value;

use crate::pipeline::compile::ChannelRule;
use crate::pipeline::params::{Bad, Params};
use crate::pipeline::path::Path;
use crate::pipeline::record::{PARTS_MAX, ROUTES_MAX, Record, Route};
use crate::pipeline::registry::{Reads, StageKind, default, optional, required};
use crate::pipeline::stage::{At, Failed, OnError, Outcome, Stage};
use crate::pipeline::template::{Scope, Template};

pub(crate) const KINDS: &[StageKind] = &[StageKind {
    name: "route",
    summary: "Adds channels to publish the record to. A name that comes out empty is left out; one that no channel may have \
              fails the record. Several of these stages add up.",
    keys: &[
        required("channels", "list of templates", "The channels' names: `[\"forum.{{ forum }}\", \"post.{{ id }}\"]`."),
        default("event", "template", "\"{{ job.kind }}\"", "The event's name."),
        optional(
            "each",
            "field",
            "A list: the templates are filled once for each of its items, which they see as `item`.",
        ),
    ],
    reads: Reads::Any,
    on_error: OnError::DeadLetter,
    build,
}];

struct ToChannels {
    channels: Vec<Template>,
    event: Template,
    each: Option<Path>,
    rule: ChannelRule,
}

fn build(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let parse = |text: &String| Template::parse(text).map_err(|message| Bad::at("channels", message));
    let channels = params.texts("channels")?.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if !(1..=ROUTES_MAX).contains(&channels.len()) {
        return Err(Bad::at("channels", format!("takes 1 to {ROUTES_MAX} templates")));
    }
    let (event, each) = (params.template("event")?, params.opt_path("each")?);
    Ok(Box::new(ToChannels { channels, event, each, rule: params.shared.channel_rule.clone() }))
}

impl Stage for ToChannels {
    fn apply(&self, mut record: Record, at: &At) -> Result<Outcome, Failed> {
        let templates: Vec<&Template> = self.channels.iter().chain([&self.event]).collect();
        let mut routes = std::mem::take(&mut record.routes);
        match &self.each {
            None => self.add(&Scope::of(&templates, &record, at)?, &mut routes)?,
            Some(each) => {
                let scope = Scope::of(&templates, &record, at)?;
                for item in items(each, &record)? {
                    self.add(&scope.with_item(item)?, &mut routes)?;
                }
            }
        }
        record.routes = routes;
        Ok(Outcome::One(record))
    }
}

impl ToChannels {
    fn add(&self, scope: &Scope, routes: &mut Vec<Route>) -> Result<(), Failed> {
        let event: Arc<str> = self.event.render(scope)?.into();
        if event.is_empty() {
            return Err("the event's name is empty".into());
        }
        for (at, channel) in (1..).zip(&self.channels) {
            let channel = channel.render(scope)?;
            if channel.is_empty() {
                continue;
            }
            // Without the name, which is made of what is in the record.
            (self.rule)(&channel).map_err(|rule| format!("template {at} makes no channel's name: {rule}"))?;
            let route = Route { channel: channel.into(), event: event.clone() };
            if !routes.contains(&route) {
                routes.push(route);
            }
            if routes.len() > ROUTES_MAX {
                return Err(format!("more than {ROUTES_MAX} channels").into());
            }
        }
        Ok(())
    }
}

/// The items of a list; none if it is not there.
fn items<'a>(each: &Path, record: &'a Record) -> Result<&'a [Value], Failed> {
    match each.get(record.fields()?) {
        // Names may come out empty, or the same, for all of them.
        Some(Value::Array(items)) if items.len() as u64 > PARTS_MAX => {
            Err(format!("{each} has more than {PARTS_MAX} items").into())
        }
        Some(Value::Array(items)) => Ok(items),
        Some(Value::Null) | None => Ok(&[]),
        Some(_) => Err(format!("{each} is not a list").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use crate::pipeline::testing::{compiled, record, wrong};
    use crate::pipeline::{Shared, Step};

    /// The channels and events of a record, or why it failed.
    fn routes(stage: Value, data: Value) -> Result<Vec<String>, String> {
        let rule = |name: &str| match name.contains(' ') {
            true => Err("letters only".to_owned()),
            false => Ok(()),
        };
        let shared = Shared { channel_rule: Arc::new(rule), ..Shared::default() };
        let pipeline = compiled(json!([{ "stage": "json" }, stage]), &shared);
        match pipeline.run(0, record(&data.to_string()), 1000).remove(0) {
            Step::Through(record) => {
                Ok(record.routes.iter().map(|route| format!("{} {}", route.channel, route.event)).collect())
            }
            Step::Failed { why, .. } => Err(why),
            other => panic!("{other:?}"),
        }
    }

    fn to(channels: Value) -> Value {
        json!({ "stage": "route", "channels": channels })
    }

    #[test]
    fn channels_come_from_fields() {
        let data =
            json!({ "forum": "rust", "id": 5, "user": { "name": "ann" }, "tags": ["a", "b", "a"], "none": null });
        let cases = [
            (to(json!(["all"])), vec!["all create"]),
            (to(json!(["forum.{{ forum }}", "post.{{ id }}"])), vec!["forum.rust create", "post.5 create"]),
            (to(json!(["user.{{ user.name|upper }}"])), vec!["user.ANN create"]),
            (to(json!(["{% if forum == 'go' %}go{% endif %}", "x"])), vec!["x create"]),
            (to(json!(["x", "x"])), vec!["x create"]),
            (to(json!(["job.{{ job.id }}.{{ job.queue }}.{{ attempt }}"])), vec!["job.17.q.1 create"]),
            (json!({ "stage": "route", "channels": ["x"], "event": "{{ forum }}.{{ kind }}" }), vec!["x rust.create"]),
            (
                json!({ "stage": "route", "channels": ["tag.{{ item }}"], "each": "tags" }),
                vec!["tag.a create", "tag.b create"],
            ),
            (json!({ "stage": "route", "channels": ["tag.{{ item }}"], "each": "nowhere" }), vec![]),
        ];
        for (stage, expected) in cases {
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(routes(stage.clone(), data.clone()), Ok(expected), "{stage}");
        }
        let cases = [
            (to(json!(["{{ nowhere }}"])), "the template: there is no nowhere"),
            (to(json!(["{{ none }}"])), "the template: it is null"),
            (to(json!(["a {{ id }}"])), "template 1 makes no channel's name: letters only"),
            (
                json!({ "stage": "route", "channels": ["x"], "event": "{% if id == 6 %}x{% endif %}" }),
                "the event's name is empty",
            ),
            (json!({ "stage": "route", "channels": ["x"], "each": "forum" }), "forum is not a list"),
        ];
        for (stage, expected) in cases {
            assert_eq!(routes(stage.clone(), data.clone()), Err(expected.into()), "{stage}");
        }
    }

    #[test]
    fn a_field_is_no_way_to_say_what_the_job_says() {
        let data = json!({ "kind": "forged", "job": { "kind": "forged" } });
        assert_eq!(routes(to(json!(["x"])), data), Ok(vec!["x create".into()]));
    }

    #[test]
    fn routes_are_bounded() {
        let data = json!({ "tags": (0..200).collect::<Vec<_>>() });
        let stage = json!({ "stage": "route", "channels": ["{{ item }}"], "each": "tags" });
        assert_eq!(routes(stage, data), Err("more than 100 channels".into()));
        let data = json!({ "tags": vec![0; 1001] });
        let stage = json!({ "stage": "route", "channels": ["{% if item %}x{% endif %}"], "each": "tags" });
        assert_eq!(routes(stage, data), Err("tags has more than 1000 items".into()));
        let message = wrong(json!([to(json!([]))]), &Shared::default());
        assert!(message.ends_with("key channels: takes 1 to 100 templates"), "{message}");
    }
}
