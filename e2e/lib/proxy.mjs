// A TCP proxy in the place of a load balancer: one address, behind it whichever instance it points to.
import { once } from 'node:events';
import { connect, createServer } from 'node:net';

export class Proxy {
  /** A proxy to the backend, until `target` is set to another. */
  static async to(backend) {
    const proxy = new Proxy();
    proxy.target = backend;
    proxy.sockets = new Set();
    proxy.server = createServer((client) => proxy.join(client)).listen(0, '127.0.0.1');
    await once(proxy.server, 'listening');
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  join(client) {
    const upstream = connect(this.target.port, '127.0.0.1');
    for (const [one, other] of [[client, upstream], [upstream, client]]) {
      this.sockets.add(one);
      one.pipe(other);
      // A backend that was killed breaks the connection off; so does whoever is behind it.
      one.on('error', () => other.destroy());
      one.on('close', () => {
        this.sockets.delete(one);
        other.destroy();
      });
    }
  }

  async stop() {
    const closed = once(this.server, 'close');
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }
}
