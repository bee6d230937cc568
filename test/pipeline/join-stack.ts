// The three stores of the pipeline, served by the stack of the run: its API and its worker are restarted with another abide.yaml,
// and get back afterwards what they had before.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse, stringify } from 'yaml';
import { eventually } from '../harness/eventually.ts';
import { findStackOfTheRun } from '../harness/stack-of-the-run.ts';
import type { RunningStack } from '../harness/stack-of-the-run.ts';
import { STORES, openStores, speakWith, startWorkerProcess } from './system.ts';
import type { Deployment } from './system.ts';

export async function joinStack(): Promise<Deployment & { readonly stack: RunningStack }> {
  const stack = await findStackOfTheRun();
  const key = (await readFile(join(stack.folder, 'admin.key'), 'utf8')).trim();
  await using place = new AsyncDisposableStack();
  const stores = await openStores(place);
  const spoken = speakWith({ url: stack.url, key }, place);

  const config = join(stack.folder, 'stack/abide.yaml');
  const before = await readFile(config, 'utf8');
  const { stores: storesBefore, ...rest } = parse(before) as { stores: Record<string, unknown> };
  const stanzas = parse(STORES.map((name) => stores[name].stanza).join('\n')) as Record<string, unknown>;
  const added = STORES.filter((name) => !(name in storesBefore));
  /** Every program that reads the file ends, and the stack starts it again. */
  const rewrite = async (text: string): Promise<void> => {
    await writeFile(config, text);
    await stack.restart(['api', ...Object.keys(storesBefore).map((name) => `worker-${name}`)]);
    await eventually(async () => {
      if ((await spoken.ask('GET', '/readyz')).status !== 200) throw new Error('the API is not ready');
    });
  };
  place.defer(async () => {
    await rewrite(before);
    await stack.retire(added);
  });
  await rewrite(stringify({ ...rest, canary: false, stores: stanzas }));
  for (const name of added) {
    const worker = await startWorkerProcess({ url: stack.url, dataFolder: stack.folder, config }, name);
    place.defer(() => worker.kill());
  }
  const owned = place.move();
  return { ...spoken, stores, stack, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
