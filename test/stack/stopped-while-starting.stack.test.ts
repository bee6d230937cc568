// What was under way beside the database failed with nobody to handle it: "a defect", and an end before the rest was stopped.
import { existsSync } from 'node:fs';
import { execSync } from 'node:child_process';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { stackFolderOf } from '../../processes/stack/layout.ts';
import { findRunning } from '../../processes/stack/program.ts';
import { runAbide, spawnAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';

async function givenFolder() {
  const folder = await mkdtemp(join(tmpdir(), 'abide-stack-'));
  // As root the database server runs as another user, which must get in.
  await chmod(folder, 0o711);
  return {
    folder,
    [Symbol.asyncDispose]: async () => {
      await runAbide(['stack', 'stop', '--data', folder]);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

const DEFECT = 'uncaught error, which is a defect';

test('Ctrl-C in the first seconds of a stack stops what was started', async () => {
  await using here = await givenFolder();
  const { folder } = here;
  const args = ['stack', '--data', folder];
  const { child, ended, output } = spawnAbide(args, { PORT: '0' }, { detached: true });
  await eventually(() => {
    if (!existsSync(join(folder, 'stack/running/registry.json'))) throw new Error(output());
  });

  process.kill(-child.pid!, 'SIGINT');
  expect(await ended).toBe(0);

  expect(output()).toMatch(/SIGINT: stopping[\s\S]*stopped\n$/);
  expect(output()).not.toContain(DEFECT);
  expect(await findRunning(stackFolderOf(folder))).toEqual([]);
  expect(existsSync(join(folder, 'postgres/postmaster.pid'))).toBe(false);
});

// Both saw that there was no other, and then looked for Java or resolved for a minute.
test('of two stacks that start on one folder at the same time one is refused, and the other left alone', async () => {
  await using here = await givenFolder();
  const { folder } = here;
  const jdk = join(folder, 'jdk/bin');
  await mkdir(jdk, { recursive: true });
  // As long as a first run takes both of them to come this far.
  const java = `#!/bin/sh\n[ "$1" = -version ] && sleep 2\nexec "${execSync('command -v java').toString().trim()}" "$@"\n`;
  for (const name of ['java', 'jar']) await writeFile(join(jdk, name), java, { mode: 0o755 });
  const start = () =>
    spawnAbide(
      ['stack', '--data', folder],
      { PORT: '0', JAVA_HOME: join(folder, 'jdk') },
      { detached: true },
    );
  const stacks = [start(), start()];

  const [first, ...rest] = stacks.map(async (stack) => ({ stack, code: await stack.ended }));
  const { stack: refused, code } = await Promise.race([first!, ...rest]);
  const other = stacks.find((stack) => stack !== refused)!;
  await eventually(() => {
    if (!existsSync(join(folder, 'stack/running/broker.json'))) throw new Error(other.output());
  });
  process.kill(-other.child.pid!, 'SIGINT');

  expect(code).toBe(1);
  expect(refused.output()).toContain('already');
  expect(await other.ended).toBe(0);
  expect(other.output()).not.toMatch(/had left running|started again/);
});

test('a configuration that is refused is the only thing said of it, and nothing goes on', async () => {
  await using here = await givenFolder();
  const { folder } = here;
  const config = join(folder, 'abide.yaml');
  await writeFile(config, 'stores:\n  crm: { connector: nowhere, scopes: [email] }\n');

  const { code, output } = await runAbide(['stack', '--data', folder, '--config', config]);

  expect(code).toBe(1);
  expect(output).toContain('(CONFIG_INVALID)');
  expect(output).not.toContain(DEFECT);
  expect(await findRunning(stackFolderOf(folder))).toEqual([]);
});

// As is printed for other commands: in that shell a stack was started of the configuration of its last start, whatever was
// changed since.
test('the configuration that a stack made is none to start it with', async () => {
  await using here = await givenFolder();
  const { folder } = here;

  const { code, output } = await runAbide(['stack', '--data', folder], {
    ABIDE_CONFIG: join(stackFolderOf(folder), 'abide.yaml'),
  });

  expect(code).toBe(1);
  expect(output).toContain('name your own, or unset ABIDE_CONFIG');
});
