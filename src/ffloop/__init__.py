"""ffloop"""
