// Loaded before anything else (--require): every connection and every name that is asked for fails.
const dns = require('node:dns');
const net = require('node:net');

const refuse = () => {
  throw new Error('offline: this process may not connect');
};
net.Socket.prototype.connect = refuse;
dns.lookup = refuse;
dns.promises.lookup = refuse;
