// What was under way beside the database failed with nobody to hear it: "a defect", and an end before the rest was stopped.
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { stackFolderOf } from '../../processes/stack/layout.ts';
import { findRunning } from '../../processes/stack/program.ts';
import { runAbide, spawnAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';

async function givenFolder() {
  const folder = await mkdtemp(join(tmpdir(), 'abide-stack-'));
  // As root the database server runs as another user, who must get in.
  await chmod(folder, 0o711);
  return {
    folder,
    [Symbol.asyncDispose]: async () => {
      await runAbide(['stack', 'stop', '--data', folder]);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

const DEFECT = 'an error that nobody caught';

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
