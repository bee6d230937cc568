// YAML with `${NAME}` from the environment, in which every value knows its line and column.
import { LineCounter, isMap, isPair, isScalar, isSeq, parseDocument, visit } from 'yaml';
import type { Document, Node } from 'yaml';

/** Where something is wrong, and what; never the value, which may be a secret. */
export type ConfigFault = {
  readonly path: readonly PropertyKey[];
  readonly at: Position | undefined;
  readonly detail: string;
};
export type Position = { readonly line: number; readonly column: number };

export type PositionedYaml = {
  readonly value: unknown;
  readonly faults: readonly ConfigFault[];
  /** Where the value at this path stands; if it is missing, where the nearest one around it stands. */
  positionOf(path: readonly PropertyKey[]): Position | undefined;
  /** Where the name of a member of the map at this path stands. */
  positionOfName(path: readonly PropertyKey[], name: string): Position | undefined;
};

// Inside a flow map, as in `{ url: ${CRM_URL} }`, the braces would end the value. They are hidden from the parser behind
// two private-use characters of the same length, so that positions stay true.
const [OPEN, CLOSE] = ['\uE000', '\uE001'];
const HIDDEN = new RegExp(`\\$${OPEN}([A-Za-z_][A-Za-z0-9_]*)${CLOSE}`, 'g');
export const hideNames = (text: string): string =>
  text.replace(/\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g, `$$${OPEN}$1${CLOSE}`);
export const showNames = (text: string): string => text.replaceAll(OPEN, '{').replaceAll(CLOSE, '}');

/** Reads one document. Faults are syntax errors, duplicate members, aliases of nothing and variables that are not set. */
export function readYaml(text: string, env: Readonly<Record<string, string | undefined>>): PositionedYaml {
  const lines = new LineCounter();
  const document = parseDocument(hideNames(text), { lineCounter: lines, prettyErrors: false });
  const at = (offset: number): Position => {
    const { line, col } = lines.linePos(offset);
    return { line, column: col };
  };
  const start = (node: unknown): Position | undefined => {
    const offset = (node as Node | null | undefined)?.range?.[0];
    return offset === undefined ? undefined : at(offset);
  };
  const faults: ConfigFault[] = [...document.errors, ...document.warnings].map(({ pos, message }) => ({
    path: [],
    at: at(pos[0]),
    detail: showNames(message),
  }));
  let isReadable = document.errors.length === 0;
  if (isReadable) {
    visit(document, {
      Scalar: (_, node, ancestors) => {
        if (typeof node.value !== 'string') return;
        // Where it stands within a longer text does not matter: the text's own beginning is found at once.
        node.value = node.value.replace(HIDDEN, (_whole, name: string) => {
          const value = env[name];
          if (value === undefined) {
            const path = pathOf([...ancestors, node]);
            faults.push({
              path,
              at: start(node),
              detail: `needs the environment variable ${name}, which is not set`,
            });
          }
          return value ?? '';
        });
      },
      Alias: (_, node) => {
        if (node.resolve(document) !== undefined) return;
        isReadable = false;
        // Like a syntax fault it has no path: a reader of one store alone is told of it as well.
        faults.push({
          path: [],
          at: start(node),
          detail:
            'begins with *, which names an anchor, and no anchor before it has that name: quote it if it is text',
        });
      },
    });
  }
  return {
    value: isReadable ? document.toJS() : undefined,
    faults,
    positionOf: (path) => {
      for (let depth = path.length; depth > 0; depth -= 1) {
        const found =
          start(document.getIn(path.slice(0, depth), true)) ?? nameOf(document, path, depth, start);
        if (found !== undefined) return found;
      }
      return start(document.contents) ?? { line: 1, column: 1 };
    },
    positionOfName: (path, name) => nameOf(document, [...path, name], path.length + 1, start),
  };
}

const pathOf = (nodes: readonly unknown[]): PropertyKey[] =>
  nodes.flatMap((node, depth): PropertyKey[] => {
    if (isPair(node)) return [isScalar(node.key) ? String(node.key.value) : '?'];
    return isSeq(node) ? [node.items.indexOf(nodes[depth + 1])] : [];
  });

/** Even a member without a value has a name that stands somewhere. */
function nameOf(
  document: Document,
  path: readonly PropertyKey[],
  depth: number,
  start: (node: unknown) => Position | undefined,
): Position | undefined {
  const map = depth === 1 ? document.contents : document.getIn(path.slice(0, depth - 1), true);
  if (!isMap(map)) return undefined;
  const pair = map.items.find(({ key }) => isScalar(key) && String(key.value) === String(path[depth - 1]));
  return start(pair?.key);
}
