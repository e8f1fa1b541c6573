//! `URL` and `URLSearchParams`: the `url` crate, seen through strings.
//!
//! An object of a script keeps its URL as the list of its parts. A change is a function from an href, the name of a
//! part and its new text to a new such list.

use hats_arena::leaf::string_of;
use rquickjs::{IntoJs, Value};
use url::form_urlencoded::{self, Serializer};
use url::{Url, quirks};

use super::array_of;
use crate::modules::{Call, elements};

/// `(text, base?)` → the parts, or undefined if it is no URL.
pub(super) fn parse<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let text = call.string(1)?;
    let base = call.argument(2);
    let base = if base.is_undefined() { None } else { Some(call.string(2)?) };
    match parsed(&text, base.as_deref()) {
        Some(url) => array_of(call.ctx, parts(&url)),
        None => Ok(Value::new_undefined(call.ctx.clone())),
    }
}

/// `(href, part, text)` → the parts after the change; undefined if nothing has changed, or, for the part `href`, if the
/// text is no URL.
pub(super) fn set<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let (href, part, text) = (call.string(1)?, call.string(2)?, call.string(3)?);
    match changed(&href, &part, &text) {
        Some(url) => array_of(call.ctx, parts(&url)),
        None => Ok(Value::new_undefined(call.ctx.clone())),
    }
}

/// `(query)` → names and values, one after the other.
pub(super) fn parse_query<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let query = call.string(1)?;
    let pairs = form_urlencoded::parse(query.as_bytes());
    array_of(call.ctx, pairs.flat_map(|(name, value)| [name.into_owned(), value.into_owned()]))
}

/// `(names and values)` → the query that says so.
pub(super) fn write_query<'js>(call: &Call<'_, 'js>) -> rquickjs::Result<Value<'js>> {
    let list = call.argument(1);
    let mut items = elements(&list);
    let text =
        |item: &Value<'js>| item.as_string().map_or_else(|| Err(call.wrong(1, "a list of texts")), string_of);
    let mut query = Serializer::new(String::new());
    while let (Some(name), Some(value)) = (items.next(), items.next()) {
        query.append_pair(&text(&name)?, &text(&value)?);
    }
    query.finish().into_js(call.ctx)
}

fn parsed(text: &str, base: Option<&str>) -> Option<Url> {
    match base {
        None => Url::parse(text).ok(),
        Some(base) => Url::parse(base).ok()?.join(text).ok(),
    }
}

/// In the order that `url.js` knows.
fn parts(url: &Url) -> [String; 11] {
    [
        quirks::href(url).to_owned(),
        quirks::origin(url),
        quirks::protocol(url).to_owned(),
        quirks::username(url).to_owned(),
        quirks::password(url).to_owned(),
        quirks::host(url).to_owned(),
        quirks::hostname(url).to_owned(),
        quirks::port(url).to_owned(),
        quirks::pathname(url).to_owned(),
        quirks::search(url).to_owned(),
        quirks::hash(url).to_owned(),
    ]
}

fn changed(href: &str, part: &str, text: &str) -> Option<Url> {
    let mut url = Url::parse(if part == "href" { text } else { href }).ok()?;
    // A change that cannot be made is not made, as the standard has it.
    let _ = match part {
        "protocol" => quirks::set_protocol(&mut url, text),
        "username" => quirks::set_username(&mut url, text),
        "password" => quirks::set_password(&mut url, text),
        "host" => quirks::set_host(&mut url, text),
        "hostname" => quirks::set_hostname(&mut url, text),
        "port" => quirks::set_port(&mut url, text),
        "pathname" => {
            quirks::set_pathname(&mut url, text);
            Ok(())
        }
        "search" => {
            quirks::set_search(&mut url, text);
            Ok(())
        }
        "hash" => {
            quirks::set_hash(&mut url, text);
            Ok(())
        }
        _ => Ok(()),
    };
    Some(url)
}
