// What the TypeScript compiler knows of hats.d.ts. Prints JSON.
//
//     node compiler.cjs FOLDER_OF_TYPESCRIPT names HATS_D_TS
//     node compiler.cjs FOLDER_OF_TYPESCRIPT check HATS_D_TS SCRIPT[,FILE...]...
//
// `names`: each global that is declared, with its members (of a class, those of an object of it, and its own under
// "static NAME"), and what the language itself has. `check`: what is wrong with each script, together with the files that
// it is listed with.
const [folder, action, declarations, ...scripts] = process.argv.slice(2);
const ts = require(folder);

const common = {
  noEmit: true, allowJs: true, checkJs: true, types: [], lib: ["lib.es2023.d.ts"], target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler, allowImportingTsExtensions: true,
  erasableSyntaxOnly: true, verbatimModuleSyntax: true, moduleDetection: ts.ModuleDetectionKind.Auto,
};

function names() {
  const program = ts.createProgram([declarations], { ...common, lib: ["lib.esnext.d.ts"], strict: true });
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(declarations);
  const own = (symbol) => symbol.declarations?.some((declaration) => declaration.getSourceFile() === source);
  const members = (type) =>
    checker.getPropertiesOfType(type).filter(own).map((member) => member.name.replace(/^__@(\w+)@\d+$/, "@@$1")).sort();

  const declared = {};
  for (const statement of source.statements) {
    const list = ts.isVariableStatement(statement) ? statement.declarationList.declarations : [statement];
    for (const declaration of list) {
      if (ts.isInterfaceDeclaration(declaration) || ts.isTypeAliasDeclaration(declaration)) continue;
      const symbol = checker.getSymbolAtLocation(declaration.name);
      const name = symbol.name;
      if (ts.isModuleDeclaration(declaration)) {
        for (const inner of checker.getExportsOfModule(symbol)) {
          declared[`type ${name}.${inner.name}`] = members(checker.getDeclaredTypeOfSymbol(inner));
        }
        continue;
      }
      const type = checker.getTypeOfSymbolAtLocation(symbol, declaration);
      if (ts.isClassDeclaration(declaration)) {
        declared[name] = members(checker.getDeclaredTypeOfSymbol(symbol));
        declared[`static ${name}`] = members(type).filter((member) => member !== "prototype");
      } else {
        declared[name] = ts.isFunctionDeclaration(declaration) ? [] : members(type);
      }
    }
  }
  const inScope = checker.getSymbolsInScope(source, ts.SymbolFlags.Value);
  const language = inScope.filter((symbol) => !own(symbol)).map((symbol) => symbol.name).sort();
  return { declared, language };
}

function check() {
  const wrong = {};
  for (const group of scripts) {
    const files = group.split(",");
    const strict = files[0].endsWith(".ts");
    const program = ts.createProgram([declarations, ...files], { ...common, strict });
    const host = { getCurrentDirectory: () => process.cwd(), getCanonicalFileName: (name) => name, getNewLine: () => "\n" };
    const diagnostics = ts.getPreEmitDiagnostics(program);
    if (diagnostics.length > 0) wrong[group] = ts.formatDiagnostics(diagnostics, host);
  }
  return wrong;
}

console.log(JSON.stringify(action === "names" ? names() : check()));
