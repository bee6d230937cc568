import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { runAbide, spawnAbide } from '../harness/abide.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';

/** A folder for temporary folders: what is in it afterwards was left behind. */
async function temporary(): Promise<AsyncDisposable & { path: string; left(): Promise<string[]> }> {
  const path = await mkdtemp(join(tmpdir(), 'abide-demo-test-'));
  return {
    path,
    left: () => readdir(path),
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}

// It took the abide.yaml of the folder that it was started in: the database there was migrated, and its stores got ada@example.com.
test('the demo shows an opt-out arrive, the store away and late, and back, and leaves nothing behind or elsewhere', async () => {
  await using folder = await temporary();
  await using beside = await temporary();
  await using real = await emptyDatabase();
  await writeFile(
    join(beside.path, 'abide.yaml'),
    `database: ${real.urls.owner}\nstores:\n  crm: { connector: postgres, url: '${real.urls.owner}', scopes: [email] }\n`,
  );
  const { ended, output: printed } = spawnAbide(
    ['demo'],
    { TMPDIR: folder.path, ABIDE_LOG: '' },
    { cwd: beside.path },
  );

  const code = await ended;

  const output = printed();
  expect(output).toMatch(/1 of 1 stores verified after \d+ ms/);
  expect(output).toMatch(/crm is late: 1 outstanding, the oldest for 1\d s/);
  expect(output).toMatch(/crm is ok: 0 outstanding, the oldest for 0 s/);
  expect(output).toMatch(/Grace's opt-out: complete, 1 of 1 stores verified/);
  expect(output).toMatch(/Nothing was lost, and the lag told the truth throughout/);
  expect(code).toBe(0);
  expect(await folder.left()).toEqual([]);
  expect(await beside.left()).toEqual(['abide.yaml']);
  const { rows } = await withClient(real.urls.owner, (client) =>
    client.query("select relname from pg_class where relnamespace = 'public'::regnamespace"),
  );
  expect(rows).toEqual([]);
});

test('Ctrl-C ends the demo at once and leaves nothing behind', async () => {
  await using folder = await temporary();
  const { child, ended, output } = spawnAbide(['demo'], { TMPDIR: folder.path, ABIDE_LOG: '' });
  await eventually(() => expect(output()).toContain('2. The store goes away'));

  child.kill('SIGINT');

  expect(await ended).toBe(1);
  expect(output()).toContain('SIGINT: the demo is stopped');
  expect(await folder.left()).toEqual([]);
});

// Its database ran for ever, in a folder with key ring and data: `abide demo | head -3`.
test('a reader who leaves ends the demo at once, and nothing is left behind', async () => {
  await using folder = await temporary();
  const { child, ended, output } = spawnAbide(['demo'], { TMPDIR: folder.path, ABIDE_LOG: '' });
  await eventually(() => expect(output()).toContain('1. Ada opts out'));

  child.stdout!.destroy();

  expect(await ended).toBe(1);
  expect(output()).toContain('The output cannot be written: the demo is stopped and its folder removed');
  expect(await folder.left()).toEqual([]);
});

// As it was for an error that nobody catches.
test('an error that nobody catches ends the demo at once, and nothing is left behind', async () => {
  await using folder = await temporary();
  const throws = `const write = process.stdout.write.bind(process.stdout);
    process.stdout.write = (text, ...rest) => {
      if (text.includes('1. Ada opts out')) setImmediate(() => { throw new Error('left to nobody'); });
      return write(text, ...rest);
    };`;
  const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(throws)}`;

  const { code, output } = await runAbide(['demo'], { TMPDIR: folder.path, ABIDE_LOG: '', NODE_OPTIONS });

  expect(code).toBe(1);
  expect(output).toContain('abide: left to nobody');
  expect(await folder.left()).toEqual([]);
});
