// Node socket.io: one process, a room a topic; with REDIS_URL set, the Redis adapter between them.
import { createServer } from "node:http";
import { Server } from "socket.io";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { eventFor, announce } from "./envelope.mjs";

async function redisAdapter(url) {
  const publisher = createClient({ url });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  return createAdapter(publisher, subscriber);
}

const http = createServer();
const io = new Server(http, { serveClient: false, perMessageDeflate: false });
if (process.env.REDIS_URL) io.adapter(await redisAdapter(process.env.REDIS_URL));

io.on("connection", (socket) => {
  socket.on("subscribe", async ({ topic }, acknowledge) => {
    await socket.join(topic);
    acknowledge?.({ ok: true, topic });
  });
  socket.on("publish", (message) => {
    io.to(message.topic).emit("event", eventFor(message));
  });
});

http.listen(0, "127.0.0.1", () => announce(http.address().port));
