import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';

const INTERRUPTION = fileURLToPath(new URL('../../cli/interruption.ts', import.meta.url));

/** A command that is interrupted while it would go on for ever, and how it ended. */
async function interrupted(signal: NodeJS.Signals, asFirst: string): Promise<readonly unknown[]> {
  const program = `
    import { untilInterrupted } from ${JSON.stringify(INTERRUPTION)};
    const interruption = untilInterrupted();
    setInterval(() => undefined, 1_000);
    interruption.signal.addEventListener('abort', () => { ${asFirst}; interruption.pass(); process.exit(0); });
    process.stdout.write('begun');`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    env: { ...process.env, NODE_OPTIONS: '' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'close');
  await once(child.stdout, 'data');
  child.kill(signal);
  return await ended;
}

// Seen in our image: an import that was interrupted while it sent the file said that nothing was recorded, and ended with 0. The
// kernel does not end the first process of a container by a signal that it sends itself; here nobody ends it by one.
test.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)(
  'after %s the first process of a container ends with %d, and any other by it',
  async (signal, code) => {
    expect(await interrupted(signal, 'process.kill = () => true')).toEqual([code, null]);
    expect(await interrupted(signal, '')).toEqual([null, signal]);
  },
);
