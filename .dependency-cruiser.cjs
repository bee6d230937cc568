// The direction of imports (ARCHITECTURE.md, "Direction"):
// suppression <- ledger, stream, connectors/contract, config <- connectors, consumers, receipts <- api <- processes <- cli.
// client/ stands beside all of it.
const not = (name, from, to, comment) => ({ name, severity: 'error', comment, from, to });
const ours =
  '^(api|bench|cli|client|config|connectors|consumers|console|ledger|processes|receipts|stream|suppression)/';

module.exports = {
  forbidden: [
    not('no-cycles', {}, { circular: true }, 'A cycle means that a boundary is in the wrong place.'),
    not(
      'suppression-is-pure',
      { path: '^suppression/' },
      { path: ours.replace('|suppression', '') },
      'The words and rules know nothing of where they are used.',
    ),
    not(
      'the-ledger-knows-the-rules-only',
      { path: '^ledger/' },
      { path: '^(api|cli|config|connectors|consumers|console|processes|receipts|stream)/' },
    ),
    not(
      'the-stream-knows-the-rules-only',
      { path: '^stream/' },
      { path: '^(api|cli|config|connectors|consumers|ledger|processes)/' },
    ),
    not(
      'config-wires-nothing',
      { path: '^config/' },
      { path: '^(api|cli|consumers|ledger|processes|stream)/' },
    ),
    not(
      'a-connector-knows-the-contract-only',
      { path: '^connectors/(?!contract/)' },
      {
        path: '^(api|bench|cli|client|config|consumers|console|ledger|processes|stream)/|^connectors/(?!contract/)',
      },
      'Adding a store is one file.',
    ),
    not(
      'the-contract-knows-the-rules-only',
      { path: '^connectors/contract/' },
      { path: '^(api|cli|config|consumers|ledger|processes|stream)/|^connectors/(?!contract/)' },
    ),
    not(
      'a-worker-gets-the-ledger-as-parameters',
      { path: '^consumers/' },
      { path: '^(api|cli|config|ledger|processes)/|^connectors/(?!contract/)' },
    ),
    not(
      'a-receipt-knows-the-ledger-only',
      { path: '^receipts/' },
      { path: '^(api|cli|client|config|connectors|consumers|console|processes|stream)/' },
      'Whoever checks one needs nothing that runs.',
    ),
    not(
      'the-api-reaches-no-store',
      { path: '^api/' },
      { path: '^(cli|consumers|processes|stream)/|^connectors/' },
    ),
    not(
      'the-api-asks-the-contract',
      { path: '^api/' },
      { path: '^ledger/(?!contract/)' },
      'How the ledger does what may be asked of it is its own business.',
    ),
    not(
      'the-ledgers-contract-knows-the-rules-only',
      { path: '^ledger/contract/' },
      { path: '^ledger/(?!contract/)' },
    ),
    not('versions-apart', { path: '^api/v1/' }, { path: '^api/v2/' }),
    not('versions-apart-too', { path: '^api/v2/' }, { path: '^api/v1/' }),
    not(
      'the-client-stands-alone',
      { path: '^client/' },
      { pathNot: '^client/' },
      'It runs in a browser as well, and whoever uses it needs nothing else of Abide.',
    ),
    not('the-cli-is-the-end', { pathNot: '^(cli|test|bench)/' }, { path: '^cli/' }),
    not('nothing-imports-tests', { pathNot: '^(test|bench)/' }, { path: '^(test|bench)/' }),
    not(
      'no-drawers',
      {},
      { path: '(^|/)(utils?|helpers?|common|types|misc|shared)(/|\\.ts$)', pathNot: 'node_modules' },
    ),
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^(node_modules|dist|coverage|\\.abide|\\.abide-stack)/' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { extensions: ['.ts', '.js', '.mjs', '.cjs', '.json'] },
  },
};
