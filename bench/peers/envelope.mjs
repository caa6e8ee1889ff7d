// What the peers share: the envelope that the platform puts around a payload, so that every server
// writes about the same bytes, and the line that tells the load generator where to connect.
let sequence = 0;

export function eventFor({ topic, payload }) {
  sequence += 1;
  return {
    id: `evt_${String(sequence).padStart(26, "0")}`,
    topic,
    source: "socket",
    type: "message",
    payload,
    metadata: { timestamp: Date.now(), offset: sequence, epoch: "0000000000000000" },
  };
}

export function announce(port) {
  process.stdout.write(`${JSON.stringify({ port })}\n`);
  // The load generator holds the other end: when it is gone, however it ended, so is this process.
  process.stdin.on("end", () => process.exit(0));
  process.stdin.resume();
}
