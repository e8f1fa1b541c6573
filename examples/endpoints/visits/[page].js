// A handler: it counts visits of whatever page the path names, /visits/start and the like.

const KEY = "examples:visits";

/** @param {Hats.HandlerRequest} request */
export default async function (request) {
  const { page } = request.params;
  switch (request.method) {
    case "GET":
      return Response.json({ page, visits: Number(redis.Call("HGET", KEY, page)) });
    case "POST":
      return Response.json({ page, visits: redis.Call("HINCRBY", KEY, page, 1) }, { status: 201 });
    default:
      return new Response("GET or POST\n", { status: 405, headers: { Allow: "GET, POST" } });
  }
}
