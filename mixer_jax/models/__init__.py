"""The models: encoders, concept memory, fusions and towers."""
