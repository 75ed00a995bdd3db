"""The code that goes with an exported model: it stands alone, with torch and transformers only."""
