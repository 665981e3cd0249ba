import { Command, CommanderError, Option } from 'commander'
import { CODES, type Code, Fail, messageOf } from './fail.ts'
import { interrupt, interrupted } from './interrupt.ts'
import { colour, log, maskUrls } from './log.ts'

/** One option of a verb, in commander's notation: `--at <time>`. */
export interface OptionSpec {
  readonly flags: string
  /** One line for --help. */
  readonly help: string
  readonly default?: string
  readonly choices?: readonly string[]
}

/** Options that mean the same in every script; a verb names those that it takes. */
export type CommonOption = 'file' | 'plan' | 'yes' | 'allow' | 'only'

/** What a verb is called with. */
export interface Call {
  /** Positional arguments, in order; optional ones may be missing at the end. */
  readonly args: readonly string[]
  /** The verb's own options, by their long name in camelCase. */
  readonly options: Readonly<Record<string, string | boolean | undefined>>
  /** `-c FILE`. */
  readonly file: string
  /** `a.b=value` arguments, in order. */
  readonly overrides: readonly string[]
  /** `--plan`: print, change nothing. */
  readonly planOnly: boolean
  /** `--yes`: nobody is asked. */
  readonly yes: boolean
  readonly allow: ReadonlySet<string>
  /** `--only a,b`; undefined is everything. */
  readonly only: readonly string[] | undefined
  /** `--json`: progress and chatter are to be left out. */
  readonly json: boolean
}

/** What a verb ends with: the same thing for people and for machines. */
export interface Outcome {
  /** Printed on stdout, unless `--json`; without a final line break. */
  readonly text: string
  /** The `result` of the JSON document. Stable keys, no secrets. */
  readonly result: unknown
  /** `false` ends the script with 1: the check says no. */
  readonly ok?: boolean
  /** What went wrong although there is a result: it is told after that, and gives the exit code. */
  readonly fail?: Fail
}

/** One thing that a script does. */
export interface Verb {
  /** Empty for a script that does one thing only. */
  readonly name: string
  /** One line for --help. */
  readonly summary: string
  /** Positional arguments in commander's notation: `<name>`, `[file]`, `[names...]`. */
  readonly args?: readonly string[]
  readonly options?: readonly OptionSpec[]
  readonly common?: readonly CommonOption[]
  /** Ways to fail that --help lists, besides usage. */
  readonly fails?: readonly Code[]
  /** A service: a signal is how it is stopped, and no failure. */
  readonly isService?: boolean
  run(call: Call): Promise<Outcome>
}

/** An executable of `scripts/`. */
export interface Script {
  readonly name: string
  readonly summary: string
  /** One command that works when pasted. */
  readonly example: string
  readonly verbs: readonly Verb[]
}

/** Where the host file is looked for without `-c`. */
const DEFAULT_FILE = '/etc/howdah/host.toml'

const COMMON: Readonly<Record<CommonOption | 'json', OptionSpec>> = {
  file: { flags: '-c, --config <file>', help: 'the host file', default: DEFAULT_FILE },
  plan: { flags: '-n, --plan', help: 'print what would be done, change nothing' },
  yes: { flags: '--yes', help: 'do not ask' },
  allow: { flags: '--allow <hazards>', help: 'hazards that may happen, by name, separated by commas' },
  only: { flags: '--only <kinds>', help: 'these kinds of things only, separated by commas' },
  json: { flags: '--json', help: 'print one JSON document' },
}

const OVERRIDE = /^[a-z_]+(\.[^.=\s]+)+=/

/**
 * Runs a script's command line to its exit code. The only place that reads `process.argv`, catches,
 * prints an error, and sets the exit code.
 */
export async function main(script: Script): Promise<void> {
  const argv = process.argv.slice(2)
  const json = ownOf(argv).includes('--json')
  let verbName = ''
  listenForSignals()
  // Not 1, which Node would end with: that is what a check says.
  process.once('uncaughtException', (thrown) => {
    report(script, verbName, thrown, json)
    // oxlint-disable-next-line unicorn/no-process-exit -- whoever waits for what failed would wait for ever
    process.exit()
  })
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error // a reader that has seen enough, such as head
  })
  try {
    const { verb, call } = parse(script, argv)
    verbName = verb.name
    const outcome = await verb.run(call)
    if (!verb.isService) interrupted.throwIfAborted()
    print(script, verb.name, outcome, json)
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) return
    report(script, verbName, interrupted.aborted ? interrupted.reason : thrown, json)
  }
}

function print(script: Script, verb: string, outcome: Outcome, json: boolean): void {
  const { fail, ok = fail === undefined } = outcome
  const error = fail && { error: documentOf(fail) }
  const document = { format: 1, script: script.name, verb, ok, result: outcome.result, ...error }
  const text = json ? JSON.stringify(document) : outcome.text
  if (text !== '') process.stdout.write(`${text}\n`)
  process.exitCode = ok ? 0 : (fail?.exitCode ?? 1)
  if (fail) tell(script, fail)
}

function report(script: Script, verb: string, thrown: unknown, json: boolean): void {
  const fail = asFail(thrown)
  process.exitCode = fail.exitCode
  if (json) {
    const error = documentOf(fail)
    process.stdout.write(`${JSON.stringify({ format: 1, script: script.name, verb, ok: false, error })}\n`)
  }
  tell(script, fail)
}

function documentOf({ code, message, hint }: Fail): Readonly<Record<string, string>> {
  return { code, message: maskUrls(message), ...(hint && { hint: maskUrls(hint) }) }
}

function tell(script: Script, fail: Fail): void {
  log('error', `${script.name}: ${colour('red', 'error', process.stderr)} [${fail.code}] ${fail.message}`)
  if (fail.hint) log('error', `${script.name}: hint: ${fail.hint}`)
  if (fail.code === 'bug' && fail.cause instanceof Error) log('error', fail.cause.stack ?? '')
}

function asFail(thrown: unknown): Fail {
  if (thrown instanceof Fail) return thrown
  if (thrown instanceof CommanderError) {
    const message = thrown.message.replace(/^error: /, '').replace(/\.?\s*\n.*/s, '')
    const suggestion = /\((Did you mean .*)\)/s.exec(thrown.message)?.[1]
    return new Fail('usage', message, { hint: suggestion ?? 'Run the same command with --help.' })
  }
  return new Fail('bug', messageOf(thrown), { hint: 'Please report it, with these lines.', cause: thrown })
}

function listenForSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    // A second one ends the process at once: the default handler is back.
    process.once(signal, () =>
      interrupt(
        new Fail('interrupted', `ended by ${signal}`, { hint: 'Run the same command again to go on.' }),
      ),
    )
  }
}

function parse(script: Script, argv: readonly string[]): { verb: Verb; call: Call } {
  const own = ownOf(argv)
  const overrides = own.filter((argument) => OVERRIDE.test(argument))
  const rest = [...own.filter((argument) => !OVERRIDE.test(argument)), ...argv.slice(own.length)]
  let found: { verb: Verb; call: Call } | undefined
  const program = configure(new Command(script.name), script.summary)
  // To build every verb takes as long as many of them run: only help and mistakes need them all.
  const named = script.verbs.find(({ name }) => name !== '' && name === rest[0])
  for (const verb of named ? [named] : script.verbs) {
    const command = verb.name === '' ? program : configure(program.command(verb.name), verb.summary)
    describe(command, script, verb)
    command.action(() => {
      found = { verb, call: callOf(command, overrides) }
    })
  }
  const names = script.verbs.map(({ name }) => name).filter(Boolean)
  if (names.length > 0) {
    program.addOption(new Option(COMMON.json.flags, COMMON.json.help))
    if (!named) addExitCodes(program, script.verbs)
    program.addHelpText('after', `\nExample:\n  ${script.example}`)
    if (rest.every((argument) => argument === '--json')) throw noVerb(script.name, names)
  }
  program.parse([...rest], { from: 'user' })
  if (!found) throw noVerb(script.name, names)
  return found
}

/** What comes after `--` is a value, or another program's, whatever it looks like. */
function ownOf(argv: readonly string[]): readonly string[] {
  const end = argv.indexOf('--')
  return end === -1 ? argv : argv.slice(0, end)
}

function noVerb(script: string, names: readonly string[]): Fail {
  return new Fail('usage', `a verb is missing: ${names.join(', ')}`, {
    hint: `Run: howdah ${script} --help`,
  })
}

const OVERRIDES = "\nArguments such as roles.app.login=true put a value over the host file's."

function configure(command: Command, summary: string): Command {
  return command
    .description(summary)
    .exitOverride()
    .allowExcessArguments(false)
    .showSuggestionAfterError(true)
    .helpCommand(false)
    .configureOutput({ writeErr: () => {}, writeOut: (text) => void process.stdout.write(text) })
}

function describe(command: Command, script: Script, verb: Verb): void {
  for (const argument of verb.args ?? []) command.argument(argument)
  const common = (verb.common ?? []).map((name) => COMMON[name])
  for (const spec of [...(verb.options ?? []), ...common, COMMON.json]) {
    const option = new Option(spec.flags, spec.help)
    if (spec.default !== undefined) option.default(spec.default)
    if (spec.choices !== undefined) option.choices(spec.choices)
    command.addOption(option)
  }
  if (verb.common?.includes('file')) command.addHelpText('after', OVERRIDES)
  addExitCodes(command, [verb])
  if (verb.name === '') command.addHelpText('after', `\nExample:\n  ${script.example}`)
}

function addExitCodes(command: Command, verbs: readonly Verb[]): void {
  const codes = new Set<Code>(['usage', ...verbs.flatMap(({ fails }) => fails ?? []), 'bug', 'interrupted'])
  const rows = [...codes]
    .map((code) => CODES[code])
    .toSorted(([a], [b]) => a - b)
    .map(([number, text]) => `  ${String(number).padEnd(4)}${text}`)
  command.addHelpText('after', `\nExit codes:\n  0   done\n  1   the check says no\n${rows.join('\n')}`)
}

function callOf(command: Command, overrides: readonly string[]): Call {
  const options = command.opts<Record<string, string | boolean | undefined>>()
  const list = (name: string) => (options[name] === undefined ? undefined : words(String(options[name])))
  return {
    args: command.processedArgs.flat().filter((value): value is string => typeof value === 'string'),
    options,
    file: String(options['config'] ?? DEFAULT_FILE),
    overrides,
    planOnly: options['plan'] === true,
    yes: options['yes'] === true,
    allow: new Set(list('allow')),
    only: list('only'),
    json: command.optsWithGlobals()['json'] === true,
  }
}

function words(text: string): string[] {
  return text
    .split(',')
    .map((word) => word.trim())
    .filter(Boolean)
}
