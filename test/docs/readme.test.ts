// What README.md and the pages beside it say of commands, options, defaults, calls and files is true.
import { existsSync, globSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import Router from '@koa/router';
import type { Command } from 'commander';
import { describe, expect, test } from '@jest/globals';
import { z } from 'zod';
import { createRoutes } from '../../api/operation.ts';
import { addHealth } from '../../api/ops/health.ts';
import { DESCRIBED } from '../../api/version.ts';
import { VERSIONS } from '../../api/versions.ts';
import { createProgram } from '../../cli/program.ts';
import { File } from '../../config/configuration.ts';
import { blocksOf, readPage, tableOf } from './markdown.ts';

const PAGES = globSync(['*.md', 'docs/*.md']);
const page = readPage('README.md');
const manifest = JSON.parse(readPage('package.json')) as { version: string; scripts: Record<string, string> };
const program = await createProgram([]);

/** The table whose first column has this head. */
const tableHeaded = (head: string): string[][] => {
  const start = page.search(new RegExp(`^\\| ${head.replaceAll('.', '\\.')} +\\|`, 'm'));
  expect(start).toBeGreaterThan(-1);
  return tableOf(page.slice(start));
};
const bare = (cell: string): string => cell.replaceAll('`', '');

const anchorsOf = (text: string): string[] =>
  [...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
    title!
      .toLowerCase()
      .replaceAll(' ', '-')
      .replaceAll(/[^\p{L}\p{N}_-]/gu, ''),
  );

test.each(PAGES)('every link of %s leads somewhere', (path) => {
  const dead = [...readPage(path).matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target]) => target!)
    .filter((target) => !/^[a-z]+:/.test(target))
    .filter((target) => {
      const [file, anchor] = target.split('#') as [string, string?];
      const there = file === '' ? path : normalize(join(dirname(path), file));
      if (!existsSync(there)) return true;
      return anchor !== undefined && !anchorsOf(readPage(there)).includes(anchor);
    });
  expect(dead).toEqual([]);
});

/** What is wrong with a line such as `abide keys create --client shop`; undefined if it can be typed. */
function faultOf(line: string): string | undefined {
  const words = line.split(/\s+/).slice(1);
  let command: Command = program;
  while (words.length > 0) {
    const next = command.commands.find((one) => one.name() === words[0]);
    if (next === undefined) break;
    command = next;
    words.shift();
  }
  if (command === program && words[0] !== undefined && !/^(--help|…)$/.test(words[0]))
    return `${line}: no command ${words[0]}`;
  // Besides its subcommands `abide import` takes a file.
  const isFile = command.registeredArguments.length > 0 && words[0]?.includes('.') === true;
  if (command.commands.length > 0 && !isFile && /^[a-z]/.test(words[0] ?? ''))
    return `${line}: no command ${words[0]}`;
  const options = ['--help', ...command.options.map(({ long }) => long)];
  const unknown = words.filter((word) => word.startsWith('--') && !options.includes(word));
  return unknown.length === 0 ? undefined : `${line}: no option ${unknown.join(', ')}`;
}

test.each(PAGES)('every command and option that %s names is there', (path) => {
  const text = readPage(path);
  const shell = blocksOf(text, 'sh').flatMap((block) => block.replaceAll('\\\n', ' ').split('\n'));
  const spans = [...text.replaceAll(/^```[\s\S]*?^```$/gm, '').matchAll(/`([^`]+)`/g)].map(([, span]) =>
    span!.replaceAll('\n', ' '),
  );
  const typed = [...shell, ...spans].flatMap(
    (line) =>
      /^(?:[A-Z_]+=\S+ )*(?:npx )?(abide(?: [^#|&;]*)?)$/.exec(line.replace(/\s+#.*$/, ''))?.[1]?.trim() ??
      [],
  );

  expect(typed.map(faultOf).filter((fault) => fault !== undefined)).toEqual([]);
  const scripts = [...text.matchAll(/npm (?:run )?([a-z]+)/g)].map(([, name]) => name!);
  const npmsOwn = ['audit', 'ci', 'install', 'pack', 'and', 'itself', 'registry', 'are', 'sbom'];
  expect(scripts.filter((name) => !(name in manifest.scripts) && !npmsOwn.includes(name))).toEqual([]);
});

test('a wrong command or option in a page would be found', () => {
  expect(faultOf('abide lags')).toContain('no command lags');
  expect(faultOf('abide stores reed crm')).toContain('no command reed');
  expect(faultOf('abide import stauts ID')).toContain('no command stauts');
  expect(faultOf('abide import opt-outs.csv --scope email')).toContain('no option --scope');
  expect(faultOf('abide import opt-outs.csv --scopes email')).toBeUndefined();
  expect(faultOf('abide lag --fail-om late')).toContain('no option --fail-om');
  expect(faultOf('abide stores retire NAME --reason …')).toBeUndefined();
});

test('abide --version is that of package.json', () => {
  expect(program.version()).toBe(manifest.version);
});

describe('README.md', () => {
  test('names every command, with the commands below it', () => {
    const rows = tableHeaded('command').map(([name, says]) => [
      bare(name!),
      ...[...says!.matchAll(/`([a-z][a-z-]*)`/g)].map(([, sub]) => sub!),
    ]);
    expect(rows).toEqual(
      program.commands.map((command) => [
        `abide ${command.name()}`,
        ...(command.name() === 'stack' ? [] : command.commands.map((one) => one.name())),
      ]),
    );
  });

  test('has every setting of abide.yaml with its default', () => {
    type Schema = { properties: Record<string, Schema>; required?: string[]; default?: unknown };
    const { properties, required = [] } = z.toJSONSchema(File, {
      io: 'input',
      unrepresentable: 'any',
    }) as unknown as Schema;
    const inFlow = (value: unknown): string =>
      Array.isArray(value) ? `[${value.join(', ')}]` : String(value);
    const expected = Object.entries(properties).flatMap(([name, schema]) =>
      ['kafka', 'limits', 'imports'].includes(name)
        ? Object.entries(schema.properties).map(([own, { default: value }]) => [
            `${name}.${own}`,
            inFlow(value),
          ])
        : [[name, required.includes(name) ? 'required' : inFlow(schema.default)]],
    );
    // What no schema can say: what holds if a setting is absent.
    const stands: Record<string, string> = {
      database: 'embedded PostgreSQL',
      owner_database: 'database, with a warning',
      replication_database: 'database, with a warning',
      default_region: 'none',
      topics: 'none',
      purposes: 'none',
      canary: 'a minute',
      oauth: 'none',
      security_contact: 'none',
      security_policy: 'none',
      'kafka.tls': 'none',
      'kafka.sasl': 'none',
    };
    expect(tableHeaded('`abide.yaml`').map(([name, value]) => [bare(name!), bare(value!)])).toEqual(
      expected.map(([name, value]) => [name, stands[name!] ?? value]),
    );
  });

  test('has every variable that abide --help has', () => {
    let help = '';
    program.configureOutput({ writeOut: (text) => (help += text) }).outputHelp();
    const names = [...help.matchAll(/^ {2}([A-Z_]+) {2,}/gm)].map(([, name]) => name);
    expect(
      tableHeaded('environment')
        .map(([name]) => bare(name!))
        .sort(),
    ).toEqual([...names].sort());
  });

  test('has every call with the scope that it asks for', () => {
    const router = new Router();
    const authorize = (scope: string) => Object.assign(() => Promise.resolve(), { scope });
    const served = createRoutes(router, authorize);
    for (const { resources } of Object.values(VERSIONS)) for (const add of resources) add(served, DESCRIBED);
    addHealth(router, {} as Parameters<typeof addHealth>[1]);
    const routes = router.stack.map(({ methods, path, stack }) => {
      const scope = stack.flatMap((one) => ('scope' in one ? [String(one.scope)] : []))[0] ?? 'none';
      return `${methods.find((method) => method !== 'HEAD')} ${String(path).replaceAll(/:(\w+)/g, '{$1}')} ${scope}`;
    });

    let before = '';
    const said = tableHeaded('call').flatMap(([calls, cell]) => {
      before = cell === 'same' ? before : (/^(?:`([a-z_:]+)`)?/.exec(cell!)?.[1] ?? 'none');
      return [...calls!.matchAll(/`([^`]+)`/g)].map(([, call]) => `${call} ${before}`);
    });
    expect(said.sort()).toEqual(routes.sort());
  });
});
