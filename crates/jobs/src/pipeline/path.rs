//! Where a field is: `text`, or `author.name` for a field of a field.

use serde_json::Value;

use super::record::Fields;
use super::stage::Failed;

/// The way to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path(Vec<String>);

impl Path {
    /// Names with dots between them.
    pub(super) fn parse(text: &str) -> Result<Path, String> {
        let names: Vec<String> = text.split('.').map(str::to_owned).collect();
        match names.iter().any(String::is_empty) {
            true => Err(format!("`{text}` is no field: names with dots between them are")),
            false => Ok(Path(names)),
        }
    }

    pub(super) fn get<'a>(&self, fields: &'a Fields) -> Option<&'a Value> {
        let (last, way) = self.0.split_last()?;
        let home = way.iter().try_fold(fields, |fields, name| fields.get(name)?.as_object())?;
        home.get(last)
    }

    pub(super) fn get_mut<'a>(&self, fields: &'a mut Fields) -> Option<&'a mut Value> {
        let (last, home) = self.home(fields)?;
        home.get_mut(last)
    }

    pub(super) fn remove(&self, fields: &mut Fields) -> Option<Value> {
        let (last, home) = self.home(fields)?;
        home.remove(last)
    }

    /// Makes the objects on the way. What is in the way and is no object is an error.
    pub(super) fn set(&self, fields: &mut Fields, value: Value) -> Result<(), Failed> {
        let (last, way) = self.0.split_last().expect("a path has a name");
        let mut home = fields;
        for name in way {
            let next = home.entry(name).or_insert_with(|| Value::Object(Fields::new()));
            home = next.as_object_mut().ok_or_else(|| format!("{self} has no place: {name} is not an object"))?;
        }
        home.insert(last.clone(), value);
        Ok(())
    }

    fn home<'a>(&self, fields: &'a mut Fields) -> Option<(&String, &'a mut Fields)> {
        let (last, way) = self.0.split_last()?;
        let home = way.iter().try_fold(fields, |fields, name| fields.get_mut(name)?.as_object_mut())?;
        Some((last, home))
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_leads_through_objects() {
        let mut value = json!({ "a": { "b": 1 }, "c": "text" });
        let fields = value.as_object_mut().expect("it is an object");
        let path = |text| Path::parse(text).expect("it is a path");
        assert_eq!(path("a.b").get(fields), Some(&json!(1)));
        assert_eq!((path("a.x").get(fields), path("c.x").get(fields)), (None, None));
        assert_eq!(path("x.y").remove(fields), None);
        assert_eq!(path("n.e.w").set(fields, json!(2)), Ok(()));
        assert_eq!(path("a.b").remove(fields), Some(json!(1)));
        let error = path("c.x").set(fields, json!(3));
        assert_eq!(error, Err("c.x has no place: c is not an object".into()));
        assert_eq!(value, json!({ "a": {}, "c": "text", "n": { "e": { "w": 2 } } }));
        for wrong in ["", ".", "a.", ".a", "a..b"] {
            assert!(Path::parse(wrong).is_err(), "{wrong}");
        }
    }
}
