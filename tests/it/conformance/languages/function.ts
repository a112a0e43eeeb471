// A WASI function in AssemblyScript, for languages.rs. The query names the task. Uses @assemblyscript/wasi-shim, which
// has no files.

function body(): ArrayBuffer {
  let body = new ArrayBuffer(0);
  const piece = new ArrayBuffer(65536);
  for (let count = process.stdin.read(piece); count > 0; count = process.stdin.read(piece)) {
    const longer = new ArrayBuffer(body.byteLength + count);
    memory.copy(changetype<usize>(longer), changetype<usize>(body), body.byteLength);
    memory.copy(changetype<usize>(longer) + body.byteLength, changetype<usize>(piece), count);
    body = longer;
  }
  return body;
}

const query = process.env.get("QUERY_STRING");
if (query == "echo") {
  process.stdout.write(body());
} else if (query == "count") {
  process.stdout.write(body().byteLength.toString() + "\n");
} else if (query == "environment") {
  process.stdout.write(process.env.get("IT_ANSWER") + " " + process.argv.length.toString() + "\n");
} else if (query == "clocks") {
  const began = process.hrtime();
  while (process.hrtime() - began < 20000000) {}
  const since = Date.now() - I64.parseInt(process.env.get("HTTP_X_NOW"));
  process.stdout.write("true " + (since >= 0 && since < 20000 ? "true" : "false") + "\n");
} else if (query == "randoms") {
  process.stdout.write(reinterpret<u64>(Math.random()).toString(16) + "\n");
} else if (query == "head") {
  process.stdout.write("Status: 201 Created\r\nContent-Type: text/csv\r\n\r\na,b\n");
} else if (query == "errors") {
  process.stderr.write("said on stderr\n");
  console.log("done");
} else if (query == "exit") {
  process.exit(3);
} else if (query == "fails") {
  throw new Error("out of luck");
} else {
  process.stdout.write("no such deed: " + query + "\n");
}
