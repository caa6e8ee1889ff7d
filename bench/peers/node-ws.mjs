// Node `ws`: one process, a set of sockets a topic, one `send` a socket.
// Speaks the subset of the plain WebSocket protocol that the load generator needs.
import { WebSocketServer } from "ws";
import { eventFor, announce } from "./envelope.mjs";

const topics = new Map();

const server = new WebSocketServer({ port: 0, host: "127.0.0.1", path: "/ws", perMessageDeflate: false });

function subscribe(socket, message) {
  let members = topics.get(message.topic);
  if (!members) topics.set(message.topic, (members = new Set()));
  members.add(socket);
  socket.on("close", () => members.delete(socket));
  socket.send(JSON.stringify({ type: "subscribed", topic: message.topic, ref: message.ref }));
}

function publish(message) {
  const frame = JSON.stringify({ type: "event", topic: message.topic, data: eventFor(message) });
  for (const member of topics.get(message.topic) ?? []) member.send(frame);
}

server.on("connection", (socket) => {
  socket.on("message", (data) => {
    const message = JSON.parse(data);
    if (message.type === "subscribe") subscribe(socket, message);
    else if (message.type === "publish") publish(message);
  });
});
server.on("listening", () => announce(server.address().port));
