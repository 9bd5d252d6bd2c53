// A server of Node's https module. Arguments: a port of 127.0.0.1, and a file with
// certificate and key.

'use strict';

const fs = require('node:fs');
const https = require('node:https');

const [port, file] = process.argv.slice(2);
const both = fs.readFileSync(file);
https
  .createServer({ cert: both, key: both }, (request, response) => response.end('ok'))
  .listen(Number(port), '127.0.0.1');
