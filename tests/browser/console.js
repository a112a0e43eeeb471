// The console's page in a real browser, against a gateway of its own: log in, deploy by upload, call, see the call and
// an error with its stderr, roll back, see the old response. Markup of functions must not run.
//
// node console.js FOLDER, which holds the programs. Needs /usr/bin/chromium. Prints a line for each step, and exits
// with code 1 at the first that fails.

import assert from 'node:assert';
import { spawn, execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';

const WAIT_MAX_MS = 30_000;
const MARKUP = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>';
const programs = path.resolve(process.argv[2]);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'faas-browser-'));
const inside = (name) => path.join(folder, name);
fs.chmodSync(folder, 0o755);
fs.mkdirSync(inside('spool'), { mode: 0o755 });
fs.mkdirSync(inside('run'), { mode: 0o700 });

const environment = {
  PATH: process.env.PATH, HOME: folder, FAAS_HOST: '127.0.0.1', FAAS_PORT: '0', FAAS_CONSOLE: '127.0.0.1:0', FAAS_WORKERS: '2',
  FAAS_DB: inside('registry.db'), FAAS_RUN_DIR: inside('run'), FAAS_SPOOL_DIR: inside('spool'), FAAS_CODE_DIR: inside('code'),
  FAAS_LEDGER: inside('calls.db'),
};

async function until(what, condition) {
  const end = Date.now() + WAIT_MAX_MS;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > end) throw new Error(`in ${WAIT_MAX_MS} ms it did not come true that ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const read = (name) => {
  try {
    return fs.readFileSync(inside(name), 'utf8').trim();
  } catch {
    return '';
  }
};

async function test(page, url) {
  const step = (text) => console.log(`ok: ${text}`);
  const faults = [];
  page.on('pageerror', (error) => faults.push(error.message));

  await page.goto(url);
  await page.fill('#token', 'wrong');
  await page.click('text=Log in');
  await page.waitForSelector('#fault:has-text("not the operator")');
  await page.fill('#token', read('run/operator.token'));
  await page.click('text=Log in');
  await page.waitForSelector('text=Functions');
  step('the right token logs in, a wrong one does not');

  const deploy = async (name, code, route) => {
    await page.goto(`${url}/#/deploy`);
    await page.setInputFiles('#one-file', { name, mimeType: 'text/plain', buffer: Buffer.from(code) });
    await page.fill('#route', route);
    await page.click('form button[type=submit]');
    await page.waitForSelector('.done:has-text("is live after")');
  };
  const call = async () => {
    await page.click('#tab-try');
    await page.click('form.caller button[type=submit]');
    await page.waitForSelector('.answer pre.body');
    return page.textContent('.answer pre.body');
  };
  await deploy('greet.sh', '#!/bin/sh\necho the first answer\n', 'GET:/greet');
  await page.click('text=See it');
  await page.waitForSelector('h1:has-text("/greet")');
  assert.equal(await call(), 'the first answer\n');
  step('an upload is deployed, and its function answers');

  const hostile = `#!/bin/sh\nprintf 'X-Markup: %s\\nContent-Type: text/html\\nStatus: 500\\n\\n%s' '${MARKUP}' '${MARKUP}'\necho '${MARKUP} went wrong' >&2\nexit 1\n`;
  await deploy('greet.sh', hostile, 'GET:/greet');
  await page.goto(`${url}/#/f/${encodeURIComponent('GET:/greet')}/descriptor`);
  const descriptor = JSON.parse(await page.inputValue('textarea.descriptor'));
  await page.fill('textarea.descriptor', JSON.stringify({ ...descriptor, name: MARKUP }));
  await page.click('text=Put into service');
  await page.waitForSelector('.toast:has-text("In service")');
  assert.ok((await call()).includes(MARKUP));
  await page.waitForSelector(`.functionhead .soft:has-text("onerror")`);
  await page.goto(`${url}/#/`);
  await page.waitForSelector('.function .title:has-text("onerror")');
  step('a new version is deployed; its name is shown as text');

  await page.goto(`${url}/#/calls?status=5xx`);
  await page.click('table.calls tr.link td:first-child');
  await page.waitForSelector('pre.stderr:has-text("went wrong")');
  step('the failed call is in the list, with its stderr');

  const contents = { code: '.numbered:has-text("printf")', history: '.changes:has-text("/greet")', calls: 'table.calls:has-text("/greet")', log: '.log:has-text("GET:/greet")' };
  for (const [tab, content] of Object.entries(contents)) {
    await page.goto(`${url}/#/f/${encodeURIComponent('GET:/greet')}/${tab}`);
    await page.waitForSelector(content);
  }
  await page.click('#tab-history');
  await page.click('text=What changed >> nth=1');
  await page.waitForSelector('.diff .added, .diff .removed');
  step('code, history, differences, calls and log of the function are shown');

  // Changes within two seconds are one step, so on a fast machine one rollback takes all of them back.
  let answer = '';
  for (let count = 0; count < 3 && answer !== 'the first answer\n'; count += 1) {
    await page.click('.functionhead >> text=Roll back');
    await page.click('dialog >> text=Roll back >> nth=-1');
    await page.waitForSelector('.toast:has-text("Rolled back")');
    await page.waitForSelector('.toast:has-text("Rolled back")', { state: 'detached' });
    answer = await call();
  }
  assert.equal(answer, 'the first answer\n');
  step('rolling back brings the first answer back');

  for (const view of ['', 'calls', 'history', 'log', 'sandbox', 'deploy']) {
    await page.goto(`${url}/#/${view}`);
    await page.waitForSelector('main > *');
    for (const width of [400, 1400]) {
      await page.setViewportSize({ width, height: 900 });
      const surplus = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(surplus <= 0, `${view} is ${surplus} pixels wider than ${width}`);
    }
  }
  step('no view is wider than its window');

  assert.equal(await page.evaluate(() => window.ran), undefined);
  assert.deepEqual(faults, []);
  step('no markup has run, and no script has failed');

  await page.click('text=Log out');
  await page.waitForSelector('#token');
  await page.goto(url);
  await page.waitForSelector('#token');
  step('after logging out the page asks for the token again');
}

let gateway;
let browser;
try {
  execFileSync(path.join(programs, 'gateway'), ['--init'], { env: environment, cwd: folder });
  const log = fs.openSync(inside('run/gateway.log'), 'a');
  gateway = spawn(path.join(programs, 'gateway'), [], { env: environment, cwd: folder, stdio: ['ignore', log, log] });
  const address = await until('the console listens', () => read('run/console.address'));
  browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  const page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
  page.setDefaultTimeout(WAIT_MAX_MS);
  try {
    await test(page, `http://${address}`);
  } catch (error) {
    console.log(`FAILED at ${page.url()}: ${(await page.textContent('main').catch(() => '')).slice(0, 2000)}`);
    throw error;
  }
} catch (error) {
  console.log(error.stack);
  console.log(read('run/gateway.log').split('\n').slice(-20).join('\n'));
  process.exitCode = 1;
} finally {
  await browser?.close();
  if (gateway?.exitCode === null) {
    gateway.kill('SIGTERM');
    await new Promise((resolve) => gateway.once('exit', resolve));
  }
  fs.rmSync(folder, { recursive: true, force: true });
}
