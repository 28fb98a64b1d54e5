// Serves containers on a free port, which it says, until standard input ends: so it stops when the test binary is killed,
// too. Arguments: the account, its key, and a container to be made.
const crypto = require("crypto");
const http = require("http");
const { BlobServerFactory } = require("azurite/dist/src/blob/BlobServerFactory.js");

const [account, key, container] = process.argv.slice(1);
const options = "--inMemoryPersistence --silent --disableTelemetry --skipApiVersionCheck --blobPort 0";
process.argv = [process.argv[0], "azurite", ...options.split(" ")];

function makeContainer(port, done) {
  const headers = { "x-ms-date": new Date().toUTCString(), "x-ms-version": "2021-12-02" };
  const resource = `/${account}/${container}`;
  const signed = [
    `PUT${"\n".repeat(12)}`,
    ...Object.entries(headers).map(([name, value]) => `${name}:${value}\n`),
    `/${account}${resource}\nrestype:container`,
  ].join("");
  const signature = crypto.createHmac("sha256", Buffer.from(key, "base64")).update(signed).digest("base64");
  headers.Authorization = `SharedKey ${account}:${signature}`;
  headers["Content-Length"] = 0;
  const path = `${resource}?restype=container`;
  http.request({ host: "127.0.0.1", port, method: "PUT", path, headers }, done).end();
}

async function serve() {
  const server = await new BlobServerFactory().createServer();
  await server.start();
  const port = server.httpServer.address().port;
  makeContainer(port, (answer) => console.log(answer.statusCode === 201 ? port : `status ${answer.statusCode}`));
}

process.stdin.on("end", () => process.exit(0)).resume();
serve().catch((error) => {
  console.log(String(error));
  process.exit(1);
});
