import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import type { Command } from 'commander';
import { createProgram } from '../../cli/program.ts';

const below = (command: Command, path: readonly string[] = []): (readonly string[])[] => [
  path,
  ...command.commands.flatMap((one) => below(one, [...path, one.name()])),
];

const help = (path: readonly string[]): ReturnType<typeof run> => run([...path, '--help']);

/** What it prints, and the code with which it ends. */
async function run(args: readonly string[]): Promise<readonly [output: string, code: unknown]> {
  let output = '';
  const program = await createProgram(args);
  const collect = (command: Command): void => {
    command.configureOutput({
      getOutHelpWidth: () => 80,
      writeOut: (text) => void (output += text),
      writeErr: (text) => void (output += text),
    });
    command.commands.forEach(collect);
  };
  collect(program);
  const code = await program.parseAsync(args, { from: 'user' }).then(
    () => 'it went on',
    (error: unknown) => (error as { exitCode?: number }).exitCode,
  );
  return [output, code];
}

test('--version says which release it is', async () => {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  expect(await run(['--version'])).toEqual([`${version}\n`, 0]);
});

test('every command, and every command below it, has a --help that ends with 0', async () => {
  const paths = below(await createProgram([]));
  expect(paths.map((path) => path.join(' '))).toEqual(
    expect.arrayContaining([
      '',
      'serve',
      'worker',
      'demo',
      'lag',
      'check',
      'import',
      'import approve',
      'keys create',
    ]),
  );
  for (const path of paths) {
    const [output, code] = await help(path);
    expect([path, code]).toEqual([path, 0]);
    expect(output).toMatch(new RegExp(`^Usage: ${['abide', ...path].join(' ')} `));
    expect(output.split('\n').filter((line) => line.length > 80)).toEqual([]);
  }
});

test.each([
  'check',
  'gate',
  'reconcile',
  'guard status',
  'import',
  'import-filter',
  'doctor',
  'receipt',
  'verify',
])('%s --help says what its exit code 3 means', async (command) => {
  const [output] = await help(command.split(' '));
  expect(output.replaceAll(/\s+/g, ' ')).toMatch(/Exit code (0: .*)?3:/);
});

// It was the help of `abide`, which lists none of a command's options.
test('after a mistake the help of that command is named', async () => {
  expect((await run(['gate']))[0]).toContain('(see abide gate --help)');
  expect((await run(['keys', 'rotate']))[0]).toContain('(see abide keys rotate --help)');
});
