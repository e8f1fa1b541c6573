//! Which endpoint a path means: a pure table of all paths that there are.
//!
//! An exact path wins over one with parameters (`/users/:id`: a segment that is a colon and a name stands for any segment
//! that is not empty). Of several with parameters the one with the longest literal beginning wins: segment by segment, a
//! literal one goes before a parameter. Two that differ only in the names of their parameters mean the same requests; the
//! first in the order of bytes answers them.

use std::collections::{BTreeSet, HashMap, HashSet};

use hats_cluster::name::EndpointPath;

use crate::message::Target;

/// The paths of all endpoints.
#[derive(Debug, Default)]
pub(crate) struct Table {
    exact: HashSet<EndpointPath>,
    patterns: BTreeSet<EndpointPath>,
    /// Made of `patterns` when it is needed next after these have changed.
    tree: Option<Node>,
}

/// What a path means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Match {
    pub(crate) path: EndpointPath,
    /// Parameters, by name, in their order.
    pub(crate) params: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, Node>,
    parameter: Option<Box<Node>>,
    /// The pattern that ends here.
    end: Option<EndpointPath>,
}

impl Table {
    /// All paths that there are.
    pub(crate) fn new(paths: impl IntoIterator<Item = EndpointPath>) -> Self {
        let mut table = Self::default();
        paths.into_iter().for_each(|path| table.insert(path));
        table
    }

    pub(crate) fn insert(&mut self, path: EndpointPath) {
        if parameters(&path).next().is_none() {
            self.exact.insert(path);
        } else if self.patterns.insert(path) {
            self.tree = None;
        }
    }

    pub(crate) fn remove(&mut self, path: &EndpointPath) {
        if !self.exact.remove(path) && self.patterns.remove(path) {
            self.tree = None;
        }
    }

    pub(crate) fn contains(&self, path: &EndpointPath) -> bool {
        self.exact.contains(path) || self.patterns.contains(path)
    }

    /// The endpoint that answers for this path.
    pub(crate) fn find(&mut self, target: &Target) -> Option<Match> {
        if let Some(path) = self.exact.get(target.path()) {
            return Some(Match { path: path.clone(), params: Vec::new() });
        }
        if self.patterns.is_empty() {
            return None;
        }
        let patterns = &self.patterns;
        let tree = self.tree.get_or_insert_with(|| Node::of(patterns));
        let mut values = Vec::new();
        let path = tree.find(&target.segments(), &mut values)?.clone();
        let params = parameters(&path).map(|(_, name)| name.to_owned()).zip(values).collect();
        Some(Match { path, params })
    }
}

impl Node {
    fn of(patterns: &BTreeSet<EndpointPath>) -> Self {
        let mut root = Node::default();
        for pattern in patterns {
            let mut node = &mut root;
            for segment in segments(pattern.as_str()) {
                node = match parameter(segment) {
                    Some(_) => node.parameter.get_or_insert_default(),
                    None => node.literal.entry(segment.into()).or_default(),
                };
            }
            node.end.get_or_insert_with(|| pattern.clone());
        }
        root
    }

    /// Looks at no node twice, and goes no deeper than the tree.
    fn find(&self, rest: &[String], values: &mut Vec<String>) -> Option<&EndpointPath> {
        let Some((segment, rest)) = rest.split_first() else { return self.end.as_ref() };
        if let Some(found) = self.literal.get(segment.as_str()).and_then(|literal| literal.find(rest, values))
        {
            return Some(found);
        }
        let parameter = self.parameter.as_ref().filter(|_| !segment.is_empty())?;
        values.push(segment.clone());
        let found = parameter.find(rest, values);
        if found.is_none() {
            values.pop();
        }
        found
    }
}

/// The segments of a path: what stands between its slashes.
pub(crate) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

/// The name of the parameter that a segment of a pattern is.
fn parameter(segment: &str) -> Option<&str> {
    let name = segment.strip_prefix(':')?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some(name)
}

fn parameters(path: &EndpointPath) -> impl Iterator<Item = (usize, &str)> {
    segments(path.as_str()).enumerate().filter_map(|(at, segment)| Some((at, parameter(segment)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> EndpointPath {
        EndpointPath::new(text).unwrap()
    }

    fn found(table: &mut Table, request: &str) -> String {
        match table.find(&Target::parse(request).unwrap()) {
            None => "none".to_owned(),
            Some(Match { path, params }) => {
                params.iter().fold(path.to_string(), |text, (name, value)| format!("{text} {name}={value}"))
            }
        }
    }

    #[test]
    fn exact_paths_win_then_the_longest_literal_beginning() {
        let mut table = Table::new(
            [
                "/",
                "/a/b",
                "/a/b/",
                "/users/me",
                "/users/:id",
                "/users/:id/posts",
                "/users/:id/:what",
                "/:any/new/posts",
                "/users/:who",
                "/:any",
                "/v:1/x",
                "/:1/y",
                "/50%",
                "/f/:a/:b/c",
                "/f/x/:b/d",
            ]
            .map(path),
        );
        for (request, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a%2Fb", "/a/b"),
            ("/%61/b", "/a/b"),
            ("/A/b", "none"),
            ("/a/b//", "none"),
            ("/users/me", "/users/me"),
            ("/users/7", "/users/:id id=7"),
            ("/users/7/", "none"),
            ("/users/", "none"),
            ("/users/:id", "/users/:id id=:id"),
            ("/users/a%2Fb%20%C3%A4", "/users/:id id=a/b ä"),
            ("/users/7/posts", "/users/:id/posts id=7"),
            ("/users/7/likes", "/users/:id/:what id=7 what=likes"),
            ("/users/new/posts", "/users/:id/posts id=new"),
            ("/other/new/posts", "/:any/new/posts any=other"),
            ("/v:1/x", "/v:1/x"),
            ("/:1/y", "/:1/y"),
            ("/50%25", "/50%"),
            ("/f/x/y/c", "/f/:a/:b/c a=x b=y"),
            ("/f/x/y/d", "/f/x/:b/d b=y"),
            ("/x", "/:any any=x"),
        ] {
            assert_eq!(found(&mut table, request), expected, "{request}");
        }
        for gone in ["/users/:id", "/a/b"] {
            table.remove(&path(gone));
        }
        assert_eq!(found(&mut table, "/users/7"), "/users/:who who=7");
        assert_eq!(found(&mut table, "/a/b"), "none");
        table.insert(path("/users/:id"));
        assert_eq!(found(&mut table, "/users/7"), "/users/:id id=7");
        assert!(table.contains(&path("/users/:id")) && !table.contains(&path("/a/b")));
    }

    proptest! {
        #[test]
        fn what_is_found_is_there_and_fits(
            paths in prop::collection::vec("(/(a|b|:p|:q|)){1,4}", 0..12),
            request in "(/(a|b|c|)){1,4}",
        ) {
            let mut table = Table::new(paths.iter().map(|text| path(text)));
            let fits = |pattern: &str| {
                let (own, asked) = (segments(pattern).collect::<Vec<_>>(), segments(&request).collect::<Vec<_>>());
                own.len() == asked.len()
                    && own.iter().zip(&asked).all(|(own, asked)| match parameter(own) {
                        Some(_) => !asked.is_empty(),
                        None => own == asked,
                    })
            };
            let rank = |pattern: &str| {
                let kinds: Vec<_> = segments(pattern).map(|segment| parameter(segment).is_some()).collect();
                (kinds, pattern.to_owned())
            };
            let best = paths.iter().filter(|text| fits(text)).min_by_key(|text| rank(text)).cloned();
            let found = table.find(&Target::parse(&request).unwrap()).map(|found| found.path.to_string());
            prop_assert_eq!(found, best);
        }
    }
}
