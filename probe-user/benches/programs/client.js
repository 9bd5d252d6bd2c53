// A client of Node's https module: so many connections, one after the other. Prints what
// it was answered. Arguments: a port of 127.0.0.1, the version of TLS, whether to resume (1
// or 0), and how many connections.

'use strict';

const https = require('node:https');

const [port, version, resume, count] = process.argv.slice(2);
const agent = new https.Agent({
  keepAlive: false,
  maxCachedSessions: resume === '1' ? 100 : 0,
  minVersion: `TLSv${version}`,
  maxVersion: `TLSv${version}`,
  rejectUnauthorized: false,
});

function ask() {
  return new Promise((resolve, reject) => {
    const request = https.get({ host: '127.0.0.1', port, agent }, (response) => {
      response.on('data', (data) => process.stdout.write(data));
    });
    request.on('close', resolve);
    request.on('error', reject);
  });
}

async function all() {
  for (let n = 0; n < Number(count); n += 1) await ask();
}

all();
