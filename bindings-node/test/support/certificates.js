'use strict';

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

/**
 * Makes, with the openssl program, an authority and certificates that it signs.
 *
 * @param {Record<string, string>} names subjectAltName of each certificate wanted, by its name
 * @returns {{ ca: Buffer } & Record<string, { cert: Buffer, key: Buffer }>}
 */
function makeCertificates(names) {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'roletalk-certificates-'));
  const file = (name) => path.join(directory, name);
  const openssl = (...args) => {
    try {
      execFileSync('openssl', args, { cwd: directory, stdio: 'pipe' });
    } catch (error) {
      if (error.code !== 'ENOENT') throw error;
      throw new Error('the program openssl is needed to make certificates for the tests of TLS: install it');
    }
  };
  const request = (name, ...args) =>
    openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', `/CN=${name}`,
      '-keyout', `${name}.key`, ...args);
  try {
    request('ca', '-x509', '-days', '2', '-out', 'ca.crt');
    const made = { ca: fs.readFileSync(file('ca.crt')) };
    for (const [name, subjectAltName] of Object.entries(names)) {
      request(name, '-out', `${name}.csr`);
      fs.writeFileSync(file(`${name}.ext`), `subjectAltName=${subjectAltName}\n`);
      openssl('x509', '-req', '-in', `${name}.csr`, '-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial',
        '-days', '2', '-extfile', `${name}.ext`, '-out', `${name}.crt`);
      made[name] = { cert: fs.readFileSync(file(`${name}.crt`)), key: fs.readFileSync(file(`${name}.key`)) };
    }
    return made;
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
}

module.exports = { makeCertificates };
