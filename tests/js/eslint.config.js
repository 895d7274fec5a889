import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2023, sourceType: "module", globals: globals.browser },
    rules: {
      eqeqeq: ["error", "always", { null: "ignore" }],
      "max-len": ["error", 120],
      "max-lines": ["error", 300],
      "no-var": "error",
      "prefer-const": "error",
    },
  },
  { files: ["tests/js/**"], languageOptions: { globals: globals.node } },
];
