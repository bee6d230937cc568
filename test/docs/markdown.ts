// Reads what a page says, so that a test can compare it with the facts.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = new URL('../../', import.meta.url);

export const readPage = (path: string): string => readFileSync(fileURLToPath(new URL(path, root)), 'utf8');

/** The fenced blocks of one language, in order. */
export const blocksOf = (page: string, language: string): string[] =>
  [...page.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm'))].map(
    ([, block]) => block!,
  );

/** What follows an `<!-- comment -->`. */
export function after(page: string, comment: string): string {
  const [, rest] = page.split(`<!-- ${comment} -->`);
  if (rest === undefined) throw new Error(`the page has no <!-- ${comment} -->`);
  return rest;
}

/** The cells of the first table, without its head and the line below. */
export function tableOf(text: string): string[][] {
  const lines = text.split('\n');
  const start = lines.findIndex((line) => line.startsWith('|'));
  const end = lines.findIndex((line, n) => n > start && !line.startsWith('|'));
  return lines.slice(start + 2, end).map((line) =>
    line
      .split(/(?<!\\)\|/)
      .slice(1, -1)
      .map((cell) => cell.trim().replaceAll('\\|', '|')),
  );
}
