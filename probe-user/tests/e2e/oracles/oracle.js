// Servers and clients of Node's `tls` module in one process, over loopback. Node
// does not tell the values of its contexts: they are asked of the OpenSSL in
// the executable, at addresses that the test gives.

'use strict';

const fs = require('node:fs');
const readline = require('node:readline');
const tls = require('node:tls');
const { SSL_OP_NO_TICKET } = require('node:constants');
const { once } = require('node:events');

const { control } = require(process.env.COUNTERS);

const VALUES = {
  number: 20,
  connect: 21,
  connect_good: 22,
  connect_renegotiate: 23,
  accept: 24,
  accept_good: 25,
  accept_renegotiate: 26,
  hits: 27,
  cb_hits: 28,
  misses: 29,
  timeouts: 30,
  cache_full: 31,
};

const cert = fs.readFileSync(process.env.CERTIFICATE);
const key = fs.readFileSync(process.env.KEY);

// Whatever has a context stays: the garbage collector decides nothing.
const kept = [];
const counts = { servers: 0, clients: 0, connections: 0, resumed: 0 };

async function connection(server, secureContext, session) {
  const accepted = once(server, 'secureConnection');
  const client = tls.connect({
    port: server.address().port,
    host: '127.0.0.1',
    servername: 'localhost',
    secureContext,
    session,
  });
  const sessionCame = session ? Promise.resolve([session]) : once(client, 'session');
  kept.push(client);
  await once(client, 'secureConnect');
  const [served] = await accepted;
  kept.push(served);
  // A byte each way: with it come the tickets of TLS 1.3.
  const heard = once(served, 'data');
  client.write('x');
  await heard;
  const answered = once(client, 'data');
  served.write('x');
  await answered;
  const [next] = await sessionCame;
  counts.connections += 1;
  counts.resumed += client.isSessionReused() ? 1 : 0;
  const closed = [once(client, 'close'), once(served, 'close')];
  client.end();
  served.end();
  await Promise.all(closed);
  return next;
}

async function scenario(version, secureOptions, connections) {
  const sessions = new Map();
  const server = tls.createServer({
    cert,
    key,
    minVersion: version,
    maxVersion: version,
    secureOptions,
  });
  kept.push(server);
  // The cache of sessions that are resumed by their id.
  server.on('newSession', (id, data, done) => {
    sessions.set(id.toString('hex'), data);
    done();
  });
  server.on('resumeSession', (id, done) => done(null, sessions.get(id.toString('hex'))));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const secureContext = tls.createSecureContext({
    ca: cert,
    minVersion: version,
    maxVersion: version,
    secureOptions,
  });
  kept.push(secureContext);
  counts.servers += 1;
  counts.clients += 1;
  let session;
  for (let i = 0; i < connections; i += 1) {
    session = await connection(server, secureContext, session);
  }
}

const scenarios = {
  tls12_session_ids: () => scenario('TLSv1.2', SSL_OP_NO_TICKET, 5),
  tls12_tickets: () => scenario('TLSv1.2', 0, 6),
  tls13_tickets: () => scenario('TLSv1.3', 0, 7),
};

function told(ctx) {
  const address = BigInt(ctx);
  const stats = {};
  for (const [name, command] of Object.entries(VALUES)) stats[name] = control(address, command);
  return { scenario: 'node', ctx, stats };
}

async function perform([command, ...words]) {
  switch (command) {
    case 'scenarios':
      return { scenarios: Object.keys(scenarios) };
    case 'run':
      await scenarios[words[0]]();
      return {};
    case 'counts':
      return counts;
    case 'stats':
      return { contexts: words.map(told) };
    default:
      throw new Error(`no such command: ${command}`);
  }
}

async function main() {
  console.log(JSON.stringify({ ready: true }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer;
    try {
      answer = await perform(line.split(' '));
    } catch (error) {
      // The test shows it.
      answer = { error: String(error && error.stack) };
    }
    console.log(JSON.stringify(answer));
  }
}

main();
