// Bun: its own publish/subscribe, which frames a message once for all the subscribers of a topic.
import { eventFor, announce } from "./envelope.mjs";

const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch(request, server) {
    if (server.upgrade(request)) return undefined;
    return new Response("expected a WebSocket", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    message(socket, data) {
      const message = JSON.parse(data);
      if (message.type === "subscribe") {
        socket.subscribe(message.topic);
        socket.send(JSON.stringify({ type: "subscribed", topic: message.topic, ref: message.ref }));
      } else if (message.type === "publish") {
        const frame = JSON.stringify({ type: "event", topic: message.topic, data: eventFor(message) });
        server.publish(message.topic, frame);
      }
    },
  },
});
announce(server.port);
