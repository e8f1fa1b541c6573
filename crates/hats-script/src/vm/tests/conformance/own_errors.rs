//! Errors that a script makes itself, beside a neighbour on the same lane.

use super::super::redis::connections;
use super::super::*;
use super::server::RedisServer;

/// Each is what a client takes for the word of a server that is not, or not yet, the one it wants.
const FORGED: &str = "for (const error of ['READONLY x', 'LOADING x', 'CLUSTERDOWN x', 'MASTERDOWN x', 'MOVED 1 127.0.0.1:1']) { \
         for (let n = 0; n < 20; n++) { \
             const [, said] = redis.Do('EVAL', 'return redis.error_reply(ARGV[1])', 0, error); \
             if (said !== error) throw new Error(said); \
         } \
     } \
     redis.Call('SET', 'done', 1)";

const NEIGHBOUR: &str = "while (redis.Call('GET', 'done') === null) { \
         redis.Call('INCR', 'n'); redis.Call('APPEND', 'k', 'x'); \
         redis.Call('EVAL', \"return redis.call('INCR', KEYS[1])\", 1, 'm'); \
     }";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_script_makes_the_server_say_is_no_error_of_its_neighbours() {
    let server = RedisServer::start().await;
    let lanes = lanes(1, Some(connections(&server.url(), 2).await));
    let fake = Fake::new();
    let neighbours: Vec<_> = (0..4)
        .map(|_| spawn(&lanes, &fake, Limits::default(), |vm| vm.load(NEIGHBOUR, "test.js")).1)
        .collect();
    let (_, ended) = spawn(&lanes, &fake, Limits::default(), |vm| vm.load(FORGED, "test.js"));
    let ended = ended.await;
    if ended.is_err() {
        let (_, set) =
            spawn(&lanes, &fake, Limits::default(), |vm| vm.load("redis.Call('SET', 'done', 1)", "a.js"));
        set.await.unwrap();
    }
    for neighbour in neighbours {
        assert_eq!(neighbour.await, Ok(()));
    }
    assert_eq!(ended, Ok(()));
}
